"""The two archives: the same bytes anywhere, and nothing that only lies around."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.bundle import bundled, write_bundle
from deploy.image import image_source, write_image_source
from deploy.imports import NotBuilt
from functions import main
from localcloud.server import TARGETS
from tests.deploy.conftest import ROOT, copy_tree

LEFT_OUT = {
    "functions/recover.py",  # a person's command, never a function
    "functions/dashboard/static/vendor/README.md",
    "shared/deployment_event.proto",
    "shared/training_completed.proto",
}
WRITERS = pytest.mark.parametrize("write", [write_bundle, write_image_source])
Write = Callable[[Path, Path], Path]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout to break."""
    return copy_tree(tmp_path / "copy")


def known_to_git(*folders: str) -> set[str]:
    """Return the files of these folders that git tracks, or would; skips outside a clone."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a clone")
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}


def test_bundle_is_the_whole_of_functions_and_shared() -> None:
    assert set(bundled(ROOT)) == known_to_git("functions", "shared") - LEFT_OUT


def test_image_is_built_from_the_whole_of_serving() -> None:
    expected = known_to_git("serving") - {"serving/Dockerfile.dockerignore"}
    assert set(image_source(ROOT)) == expected | {"deploy/sbom.txt", "deploy/trim.py"}


@WRITERS
def test_same_tree_elsewhere_gives_the_same_bytes(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    here = write(ROOT, tmp_path / "here")
    for path in copy.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700 if path.is_dir() else 0o600)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    there = write(copy, tmp_path / "there")
    assert (here.name, here.read_bytes()) == (there.name, there.read_bytes())


@WRITERS
def test_one_other_byte_gives_another_name(copy: Path, tmp_path: Path, write: Write) -> None:
    name = "functions/main.py" if write is write_bundle else "serving/wire.py"
    before = write(copy, tmp_path)
    (copy / name).write_text((copy / name).read_text() + "\n")
    assert write(copy, tmp_path).name != before.name


def test_what_lies_around_stays_out(copy: Path, tmp_path: Path) -> None:
    before = write_bundle(copy, tmp_path)
    for name in (
        "functions/scratch.py",
        "functions/dashboard/notes.txt",
        "functions/dashboard/static/old.js",
        "functions/dashboard/templates/model.html~",
        "functions/dashboard/templates/.model.html.swp",
        "shared/.env",
        "shared/key.json",
        "shared/__pycache__/config.cpython-311.pyc",
    ):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("secret")
    (copy / "functions/dashboard/static/plots.svg").symlink_to("/etc/passwd")
    assert write_bundle(copy, tmp_path) == before


def test_root_is_as_the_buildpack_wants_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(write_bundle(ROOT, tmp_path)) as archive:
        names = archive.namelist()
        assert archive.read("main.py") == (ROOT / "functions/main.py").read_bytes()
        assert (
            archive.read("requirements.txt") == (ROOT / "functions/requirements.txt").read_bytes()
        )
    assert {name.partition("/")[0] for name in names} == {
        "functions",
        "main.py",
        "requirements.txt",
        "shared",
    }
    assert not {"functions/main.py", "functions/requirements.txt"} & set(names)


def test_relative_import_is_refused_by_its_line(copy: Path) -> None:
    (copy / "functions/cancel.py").write_text("from . import steps\n")
    with pytest.raises(NotBuilt, match=r"cancel\.py:1"):
        bundled(copy)


def probe(bundle: Path) -> subprocess.CompletedProcess[str]:
    """Start every entry point of an unpacked bundle, without this checkout and its .venv's .pth."""
    command = [sys.executable, "-I", "-S", str(ROOT / "deploy/probe.py"), str(bundle)]
    return subprocess.run(
        [*command, sysconfig.get_path("purelib")], cwd="/", capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    with zipfile.ZipFile(write_bundle(ROOT, folder)) as archive:
        archive.extractall(folder / "bundle")
    return folder / "bundle"


def test_every_entry_point_answers_out_of_the_bundle_alone(unpacked: Path) -> None:
    result = probe(unpacked)
    assert result.returncode == 0, result.stdout + result.stderr
    answering = {
        line.removesuffix(": answers")
        for line in result.stdout.splitlines()
        if line.endswith(": answers")
    }
    assert answering == set(main.__all__) == set(TARGETS)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("functions/dashboard/static/turnout.css", "dashboard: "),
        ("functions/steps.py", "ModuleNotFoundError: No module named 'functions.steps'"),
    ],
)
def test_incomplete_bundle_is_found_out(
    unpacked: Path, tmp_path: Path, gone: str, said: str
) -> None:
    broken = shutil.copytree(unpacked, tmp_path / "broken")
    (broken / gone).unlink()
    result = probe(broken)
    assert result.returncode == 1
    printed = (result.stdout + result.stderr).splitlines()
    assert any(line.startswith(said) and not line.endswith(": answers") for line in printed)
