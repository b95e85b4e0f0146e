"""`gcloud` and `terraform` as far as `make deploy` uses them, over a folder instead of a cloud.

Which of the two it is says the name that it is called by. Every call is appended to `calls` in
$FAKE_CLOUD as JSON; `project.json` there is the project. A call whose words begin with $FAKE_FAILS
ends with 1.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

CLOUD = Path(os.environ["FAKE_CLOUD"])
SECRET = "TF_VAR_dashboard_secret"


def main(program: str, arguments: list[str]) -> int:
    """Record the call and answer it from the project."""
    words = [word for word in arguments if not word.startswith("-")]
    with (CLOUD / "calls").open("a") as calls:
        calls.write(json.dumps([program, *arguments]) + "\n")
    fails = os.environ.get("FAKE_FAILS", "").split()
    if fails and [program, *words][: len(fails)] == fails:
        return refuse("ERROR: the cloud [europe] has a bad day")
    kept = CLOUD / "project.json"
    project = json.loads(kept.read_text())
    code = (gcloud if program == "gcloud" else terraform)(words, arguments, project)
    kept.write_text(json.dumps(project))
    return code


def refuse(said: str) -> int:
    print(said, file=sys.stderr)
    return 1


def option(arguments: list[str], name: str) -> str:
    return next(a.partition("=")[2] for a in arguments if a.startswith(f"{name}="))


def gcloud(words: list[str], arguments: list[str], project: dict[str, Any]) -> int:
    match words:
        case ["auth", "list"]:
            print(project["account"])
        case ["auth", "application-default", _]:
            return 0 if project["application_credentials"] else refuse("ERROR: run login")
        case ["projects", "describe", _]:
            if project["state"] is None:
                return refuse("ERROR: [someone] does not have permission, or it may not exist")
            print(project["state"])
        case ["billing", "projects", "describe", _]:
            print(project["billing"])
        case ["services", "list"]:
            print("\n".join(project["apis"]))
        case ["services", "enable", *apis]:
            project["apis"] += apis
        case ["storage", "buckets", verb, bucket]:
            return buckets(verb, bucket, arguments, project)
        case ["artifacts", "docker", "images", "list", _]:
            if not project["applied"].get("needs"):
                return refuse("ERROR: NOT_FOUND: Requested entity was not found.")
            print(json.dumps(project["images"]))
        case ["builds", "submit", archive]:
            return build(archive, arguments, project)
        case ["run", "services", "list"]:
            print("\n".join(project["services"]))
        case ["run", "services", "delete", name]:
            project["services"].remove(name)
        case _:
            return refuse(f"ERROR: fake gcloud knows no {words}")
    return 0


def buckets(verb: str, bucket: str, arguments: list[str], project: dict[str, Any]) -> int:
    known = project["buckets"]
    if verb == "create":
        known[bucket] = {"versioning_enabled": False}
    elif bucket not in known:
        return refuse(f"ERROR: (gcloud.storage) {bucket} not found: 404.")
    elif verb == "update":
        known[bucket]["versioning_enabled"] = "--versioning" in arguments
    else:
        print(json.dumps({"name": bucket, **known[bucket]}))
    return 0


def build(archive: str, arguments: list[str], project: dict[str, Any]) -> int:
    if not Path(archive).is_file() or not Path(option(arguments, "--config")).is_file():
        return refuse("ERROR: no such file")
    if not project["applied"].get("needs"):
        return refuse("ERROR: the service account does not exist")
    pairs = option(arguments, "--substitutions").removeprefix("^;^").split(";")
    tag = dict(pair.split("=", 1) for pair in pairs)["_TAG"]
    number = len(project["images"]) + 1
    made = {"createTime": f"2026-11-28T10:00:0{number}Z", "version": f"sha256:{number:064x}"}
    project["images"].append({"tags": [tag], **made})
    return 0


def terraform(words: list[str], arguments: list[str], project: dict[str, Any]) -> int:
    verb, rest = words[0], words[1:]
    if verb == "version":
        print(json.dumps({"terraform_version": project["terraform"]}))
    elif verb == "init":
        (Path(os.environ["TF_DATA_DIR"]) / "initialised").touch()
    elif not (Path(os.environ["TF_DATA_DIR"]) / "initialised").exists():
        return refuse("Error: Backend initialization required")
    elif verb in ("plan", "apply", "destroy") and len(os.environ[SECRET]) < 32:
        return refuse("Error: No value for required variable")
    elif verb == "plan":
        wanted = sorted(a for a in arguments if a.startswith(("-var", "-target")))
        part = "needs" if any(a.startswith("-target") for a in wanted) else "all"
        Path(option(arguments, "-out")).write_text(json.dumps({part: wanted}))
        print(f"Plan: {part}")
        return 0 if project["applied"].get(part) == wanted else 2
    elif verb == "apply":
        project["applied"].update(json.loads(Path(rest[0]).read_text()))
        if "all" in project["applied"]:
            project["services"] = ["model-serving-movies"]
    elif verb == "state":
        if not project["applied"]:
            return refuse("No state file was found!")
        print('google_storage_bucket.source\ngoogle_cloud_run_v2_service.model["movies"]')
    elif verb == "destroy":
        if project["services"]:
            return refuse("Error: cannot destroy service without deletion_protection=false")
        project["applied"] = {}
    elif verb == "output":
        print('dashboard_url = "https://dashboard"')
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))
