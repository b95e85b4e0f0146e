"""`gcloud` and `terraform` as far as `make deploy` uses them, over a folder instead of a cloud.

Which of the two it is says the name that it is called by. Every call is appended to `calls` in
$FAKE_CLOUD as JSON; `project.json` there is the project. A call whose words begin with $FAKE_FAILS
ends with 1; so does an apply of everything while there are `refusals` to be said.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

CLOUD = Path(os.environ["FAKE_CLOUD"])
SECRET = "TF_VAR_dashboard_secret"
NUMBER = "123456789012"
SERVICES = {"model-serving-movies": "europe-west1", "model-serving-books": "europe-west3"}


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
            print(NUMBER if "projectNumber" in arguments[-2] else project["state"])
        case ["projects", "get-iam-policy", _]:
            print(json.dumps({"bindings": project["policy"]}))
        case ["projects", "add-iam-policy-binding", _]:
            who, role = option(arguments, "--member"), option(arguments, "--role")
            if not who.endswith(f"service-{NUMBER}@{project.get('agent')}"):
                return refuse("ERROR: INVALID_ARGUMENT: Service account does not exist.")
            project["policy"].append({"role": role, "members": [who]})
        case ["beta", "services", "identity", "create"]:
            service = option(arguments, "--service")
            if service not in project["apis"]:
                return refuse("ERROR: the API is not enabled")
            project["agent"] = f"gcp-sa-{service.split('.')[0]}.iam.gserviceaccount.com"
        case ["billing", "accounts", "describe", account]:
            if account not in project["billing_accounts"]:
                return refuse("ERROR: PERMISSION_DENIED: The caller does not have permission")
            print("True")
        case ["billing", "projects", "describe", _]:
            print(project["billing"])
        case ["services", "list"]:
            print("\n".join(project["apis"]))
        case ["services", "enable", *apis]:
            project["apis"] += apis
        case ["storage", "cp", source, folder]:
            if not project["objects"]:
                return refuse("ERROR: The following URLs matched no objects or files")
            (Path(folder) / source.rpartition("/")[2]).touch()
        case ["storage", "buckets", "list"]:
            print("\n".join(name.removeprefix("gs://") for name in project["buckets"]))
        case ["firestore", "backups", "list"]:
            print("\n".join(project["backups"]))
        case ["storage", "buckets", verb, bucket]:
            return buckets(verb, bucket, arguments, project)
        case ["artifacts", "docker", "images", "list", _]:
            if not project["applied"].get("needs"):
                return refuse("ERROR: NOT_FOUND: Requested entity was not found.")
            print(json.dumps(project["images"]))
        case ["builds", "submit", archive]:
            return build(archive, arguments, project)
        case ["run", "services", "list"]:
            where = option(arguments, "--region")
            print("\n".join(n for n, region in project["services"].items() if region == where))
        case ["run", "services", "delete", name]:
            if project["services"].pop(name) != option(arguments, "--region"):
                return refuse("ERROR: Service could not be found.")
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
        if "-var=deletion_protection=false" in wanted:
            part = "unprotected"
        Path(option(arguments, "-out")).write_text(json.dumps({part: wanted}))
        print(f"Plan: {part}")
        return 0 if project["applied"].get(part) == wanted else 2
    elif verb == "apply":
        planned = json.loads(Path(rest[0]).read_text())
        if "all" in planned and project["refusals"]:
            return refuse(project["refusals"].pop(0))
        project["applied"].update(planned)
        if "all" in planned:
            project["services"] = dict(SERVICES)
    elif verb == "show":
        print(json.dumps(state(project["applied"])))
    elif verb == "destroy":
        if project["services"] or "unprotected" not in project["applied"]:
            return refuse("Error: cannot destroy service without setting deletion_protection=false")
        project["applied"] = {}
    elif verb == "output":
        print('dashboard_url = "https://dashboard"')
    return 0


def state(applied: dict[str, Any]) -> dict[str, Any]:
    """Return what `terraform show -json` prints of what was applied."""
    if not applied:
        return {"format_version": "1.0"}
    protected = "unprotected" not in applied
    found = [("google_storage_bucket.source", {"force_destroy": True})]
    if "all" in applied:
        bundle = option(applied["all"], "-var=bundle").rpartition("/")[2]
        found += [
            ("google_storage_bucket_object.bundle", {"name": f"functions/{bundle}"}),
            (
                "google_firestore_database.state",
                {"deletion_policy": "PREVENT" if protected else ""},
            ),
            ('google_cloud_run_v2_job.prepare["movies"]', {"deletion_protection": protected}),
            ("google_storage_bucket.serving", {"force_destroy": not protected}),
        ]
    for name, region in SERVICES.items() if "all" in applied else ():
        address = f'google_cloud_run_v2_service.model["{name.rpartition("-")[2]}"]'
        found.append((address, {"name": name, "location": region, "deletion_protection": True}))
    managed = [
        {"address": address, "type": address.partition(".")[0], "values": values, "mode": "managed"}
        for address, values in found
    ]
    looked_up = {"address": "data.google_project.this", "type": "google_project", "mode": "data"}
    return {"values": {"root_module": {"resources": [looked_up, *managed]}}}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))
