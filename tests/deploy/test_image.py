"""How the image is built: its Dockerfile, what is trimmed, and Cloud Build's steps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import trim
from deploy.google import CLOUD_BUILD
from deploy.image import image_source
from tests.deploy.conftest import ROOT, Cloud

DOCKERFILE = (ROOT / "serving/Dockerfile").read_text()
BUILD: dict[str, Any] = yaml.safe_load((ROOT / CLOUD_BUILD).read_text())
SCRIPTS = {step["id"]: step["script"] for step in BUILD["steps"]}


def test_last_stage_runs_as_a_user_without_a_name_to_log_in() -> None:
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.findall(r"^USER (\S+)$", last, re.M) == ["10001"]
    assert "--shell /usr/sbin/nologin" in last


def test_every_stage_comes_from_the_one_base() -> None:
    assert re.findall(r"^FROM (\S+)(?: AS (\w+))?$", DOCKERFILE, re.M) == [
        ("${BASE}", "packages"),
        ("packages", "sbom"),
        ("${BASE}", ""),
    ]


def test_what_is_copied_is_in_the_source_and_passes_the_ignore_file() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    }
    ignored = (ROOT / "serving/Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}
    files = image_source(ROOT)
    assert all(any(Path(name).match(source) for name in files) for source in copied)


def test_only_hashed_wheels_are_installed() -> None:
    installs = re.findall(r"pip install (.*?)(?:\n[A-Z]|&& /sbom/bin/cyc)", DOCKERFILE, re.S)
    assert len(installs) == 2
    for install in installs:
        assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(install.split())


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder of packages as pip leaves it, in small."""
    folder = tmp_path / "site-packages"
    for name in trim.DISTRIBUTIONS:
        module = {"libclang": "clang"}.get(name, name)
        (folder / module / "inner").mkdir(parents=True)
        (folder / module / "__init__.py").touch()
        (folder / module / "inner" / "code.py").touch()
        information = folder / f"{name}-1.0.dist-info"
        information.mkdir()
        (information / "RECORD").write_text(
            f"{module}/__init__.py,,\n{module}/inner/code.py,,\n../../bin/{name},,\n"
            f'{information.name}/RECORD,,\n"{module}/gone, really.py",,\n'
        )
    for name in (*trim.FOLDERS, "numpy/linalg/tests", "numpy/testing", "h5py/tests", "tests"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file.h").write_text("content")
    (tmp_path / "bin").mkdir()
    return folder


def test_trimming_leaves_what_serving_uses(packages: Path) -> None:
    (packages / "pip_like.py").touch()
    trim.main(packages)
    left = {p.relative_to(packages).as_posix() for p in packages.rglob("*") if p.is_file()}
    assert left == {"numpy/testing/file.h", "tests/file.h", "pip_like.py"}
    assert not (packages / "clang").exists()


def test_trimming_packages_that_changed_shape_is_refused(packages: Path) -> None:
    for path in (packages / "tensorflow/include").iterdir():
        path.unlink()
    (packages / "tensorflow/include").rmdir()
    with pytest.raises(FileNotFoundError):
        trim.main(packages)


def test_distribution_with_a_longer_name_is_another_one(packages: Path) -> None:
    (packages / "pip-1.0.dist-info").rename(packages / "pip_tools-1.0.dist-info")
    with pytest.raises(FileNotFoundError, match="no pip in"):
        trim.main(packages)


@pytest.mark.parametrize("step", SCRIPTS)
def test_script_of_a_build_step_can_be_read_by_its_shell(step: str) -> None:
    subprocess.run(["bash", "-n"], input=SCRIPTS[step], text=True, check=True)
    assert SCRIPTS[step].startswith("#!/usr/bin/env bash\nset -euo pipefail\n")


def test_python_in_the_build_steps_can_be_compiled() -> None:
    inline = re.findall(r"-c '\n(.*?)'\n", SCRIPTS["try"], re.S)
    inline += re.findall(r"<<'PYTHON'\n(.*?)\nPYTHON\n", SCRIPTS["try"], re.S)
    assert len(inline) == 2
    for code in inline:
        subprocess.run(
            [sys.executable, "-c", "import sys; compile(sys.stdin.read(), 'step', 'exec')"],
            input=code,
            text=True,
            check=True,
        )


def test_everything_that_the_build_reads_is_declared_and_given(running: Cloud) -> None:
    read = set(re.findall(r"\$\{?(_[A-Z]+)", (ROOT / CLOUD_BUILD).read_text()))
    assert read == set(BUILD["substitutions"])
    (call,) = (call for call in running.calls() if "submit" in call)
    (given,) = (a.partition("=^;^")[2] for a in call if a.startswith("--substitutions"))
    values = dict(pair.split("=", 1) for pair in given.split(";"))
    without_default = {name for name, value in BUILD["substitutions"].items() if not value}
    assert set(values) == without_default
    assert values["_IMAGE"] == "europe-west1-docker.pkg.dev/shop-test/turnout/serving"


@pytest.mark.parametrize(
    ("refuse", "found", "passes"),
    [
        ("", "CRITICAL\tCVE-1\n", True),
        ("CRITICAL", "HIGH\tCVE-1\nLOW\tCRITICAL in the text\n", True),
        ("CRITICAL", "HIGH\tCVE-1\nCRITICAL\tCVE-2\n", False),
        ("CRITICAL|HIGH", "HIGH\tCVE-1\n", False),
        ("CRITICAL", "", True),
    ],
)
def test_scan_refuses_the_named_severities_only(
    tmp_path: Path, refuse: str, found: str, passes: bool
) -> None:
    gcloud = tmp_path / "gcloud"
    (tmp_path / "found").write_text(found)
    gcloud.write_text(
        f'#!/bin/sh\ncase "$*" in *list-vuln*) cat {tmp_path}/found;; *) echo scans/1;; esac\n'
    )
    gcloud.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", SCRIPTS["scan"]],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "_REFUSE": refuse, "_IMAGE": "i", "_TAG": "t"},
        capture_output=True,
    )
    assert (done.returncode == 0) is passes


def test_image_is_pushed_after_all_steps_only() -> None:
    assert "docker push" not in "".join(SCRIPTS.values())
    assert BUILD["images"] == ["$_IMAGE:$_TAG"]
