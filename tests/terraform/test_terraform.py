"""terraform/ against the code: names, environment, identities, roles, what must not be public."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import pytest
import yaml

from deploy.bundle import bundled
from deploy.terraform import Resource
from functions import main
from functions.dashboard.settings import DashboardSettings
from localcloud import project
from localcloud.server import TARGETS
from shared import config
from shared.domain.deployment import RetrievalKind
from shared.domain.policy import Checking, Drift, OnInconclusive, Superseding
from shared.domain.quality_gate import DeployWhen
from shared.domain.rollout import Strategy
from shared.messages import ModelDeclaration
from tests.terraform.checking import ROOT, Outcome, Plan, Workspace
from tests.terraform.extract_schema import used
from tests.terraform.reading import constants, from_firestore, permissions, table, texts
from tests.terraform.stub_provider import read_schema

PROJECT = "shop-production"
WORKFLOW_FILE = ROOT / "workflows" / "deploy_model.yaml"
REGION = "europe-central2"
IMAGE = f"{REGION}-docker.pkg.dev/{PROJECT}/turnout/serving@sha256:{'0' * 64}"
PUBSUB = "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com"
SERVING = ["serving_state", "artifacts_reader", "traces"]
PUBLIC = {"allUsers", "allAuthenticatedUsers"}
#: What a region often gives a new project, in vCPU and GiB; some regions half of it.
QUOTA = (20, 40)

READ = r"(TURNOUT|OTEL)_[A-Z_]+"
# Read by the bundle, and rightly not set.
NOT_SET = {
    "OTEL_SDK_DISABLED": "the variable `traces` says it with OTEL_TRACES_EXPORTER",
    "TURNOUT_GRPC_EMULATOR_HOST": "the local cloud's",
    "TURNOUT_CERTS_URL": "Google's own address is the default",
    "TURNOUT_AUDIENCE": "a person's token carries gcloud's own audience; Cloud Run checks it",
}
# Beside the project's own roles.
PREDEFINED = {
    "google_artifact_registry_repository_iam_member": {"roles/artifactregistry.writer"},
    "google_cloud_run_v2_service_iam_member": {"roles/run.invoker"},
    "google_iap_web_backend_service_iam_member": {"roles/iap.httpsResourceAccessor"},
    "google_project_iam_member": {
        "roles/cloudtrace.user",
        "roles/logging.logWriter",
        "roles/logging.viewer",
        "roles/monitoring.viewer",
        "roles/storage.objectViewer",
    },
    "google_pubsub_subscription_iam_member": {"roles/pubsub.subscriber"},
    "google_pubsub_topic_iam_member": {"roles/pubsub.publisher"},
    "google_secret_manager_secret_iam_member": {"roles/secretmanager.secretAccessor"},
    "google_storage_bucket_iam_member": {
        "roles/storage.objectCreator",
        "roles/storage.objectUser",
        "roles/storage.objectViewer",
    },
}


class Recording(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, **values: str) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def email(account: str) -> str:
    return project.service_account(PROJECT, account)


def functions(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return each function's values by its name."""
    found = plan.all("google_cloudfunctions2_function").values()
    return {function["name"]: function for function in found}


def service_of(function: Mapping[str, Any]) -> dict[str, Any]:
    return dict(function["service_config"][0])


def grants(plan: Plan) -> Iterator[tuple[str, str, str, str]]:
    """Give type, address, role and member of everything that anybody is given."""
    for kind in plan.kinds:
        if "_iam_" in kind and not kind.endswith("custom_role"):
            for address, values in plan.all(kind).items():
                members = values.get("members") or [values["member"]]
                for member in members:
                    yield kind, address, values["role"], member


def workflow_steps() -> set[str]:
    """Return the functions that the workflow calls, out of its own file."""
    text = WORKFLOW_FILE.read_text()
    named = re.findall(r"^\s+name: (\w+)$", text, re.M)
    return {*named, *re.findall(r'get_env\("FUNCTIONS_URL"\) \+ "/(\w+)"', text)}


def test_terraforms_own_assertions_hold(tested: Outcome) -> None:
    assert tested.passed, tested.output


def test_it_is_valid_and_formatted(workspace: Workspace) -> None:
    workspace.run("validate")
    workspace.run("fmt", "-check", "-recursive", "-diff")


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_the_example_environments_can_be_planned(workspace: Workspace, environment: str) -> None:
    folder = workspace.folder / "planned"
    folder.mkdir(exist_ok=True)
    (folder / "plan.tftest.hcl").write_text(
        'mock_provider "google" {}\nrun "plan" {\n  command = plan\n}\n'
    )
    tested = workspace.test(
        "-test-directory=planned",
        f"-var-file=environments/{environment}.tfvars",
        f"-var=serving_image={IMAGE}",
        "-var=bundle=../build/bundle-0123456789ab.zip",
        f"-var=dashboard_secret={'s' * 32}",
    )
    assert tested.passed, tested.output
    assert functions(tested.plans["plan"])


# --- Functions -------------------------------------------------------------------------------


def test_every_entry_point_is_a_function_of_its_own(production: Plan) -> None:
    found = functions(production)
    assert set(found) == set(main.__all__) == set(TARGETS)
    for name, function in found.items():
        build = function["build_config"][0]
        assert build["entry_point"] == name
        source = build["source"][0]["storage_source"][0]["object"]
        assert source == "functions/bundle-0123456789ab.zip"
        assert not function["event_trigger"], "an Eventarc trigger: see docs/decisions/0001"


def test_every_part_has_an_identity_of_its_own(production: Plan) -> None:
    accounts = production.all("google_service_account").values()
    emails = Counter(email(account["account_id"]) for account in accounts)
    assert max(emails.values()) == 1
    used = [service_of(one)["service_account_email"] for one in functions(production).values()]
    used += [one["service_account"] for one in production.all("google_workflows_workflow").values()]
    used += {
        one["http_target"][0]["oidc_token"][0]["service_account_email"]
        for one in production.all("google_cloud_scheduler_job").values()
    }
    used += [
        one["push_config"][0]["oidc_token"][0]["service_account_email"]
        for address, one in production.all("google_pubsub_subscription").items()
        if address.startswith("push[")
    ]
    assert max(Counter(used).values()) == 1
    assert set(used) <= set(emails)


def test_every_variable_that_the_code_reads_is_set_and_no_other(
    production: Plan, tested: Outcome
) -> None:
    everywhere, chat, dashboard, iap = (Recording(TURNOUT_PROJECT=PROJECT) for _ in range(4))
    config.Settings.from_environment(everywhere)
    config.ChatSettings.from_environment(config.Settings.from_environment(Recording(**chat)), chat)
    dashboard["TURNOUT_SECRET"] = iap["TURNOUT_SECRET"] = "s" * 32
    iap |= {"TURNOUT_IDENTITY": "iap", "TURNOUT_IAP_AUDIENCE": "/projects/1"}
    DashboardSettings.from_environment(dashboard)
    DashboardSettings.from_environment(iap)
    read = set().union(
        *(constants(ROOT / name, READ) for name in bundled(ROOT) if name[-3:] == ".py")
    )
    asked = everywhere.asked | chat.asked | dashboard.asked | iap.asked
    assert read - set(NOT_SET) == _ours(asked), (
        "the bundle reads a variable that no settings class does: say here which functions do"
    )
    own = {"on_deployment_event": chat.asked, "dashboard": dashboard.asked}
    domain = functions(tested.plans["behind_a_domain"])
    for name, function in functions(production).items():
        expected = everywhere.asked | own.get(name, set())
        assert _set(function) == _ours(expected) - (
            set() if name == "dashboard" else {"TURNOUT_CHAT_WEBHOOK"}
        )
        if name == "dashboard":
            assert _set(domain[name]) == _ours(everywhere.asked | iap.asked)
        elif name == "on_deployment_event":
            assert _set(domain[name]) == _ours(expected)
        else:
            assert _set(domain[name]) == _set(function)


def _ours(names: set[str]) -> set[str]:
    return {name for name in names if re.fullmatch(READ, name)} - set(NOT_SET)


def _set(function: Mapping[str, Any]) -> set[str]:
    service = service_of(function)
    secrets = {secret["key"] for secret in service["secret_environment_variables"]}
    assert not secrets & set(service["environment_variables"])
    return secrets | set(service["environment_variables"])


def test_the_settings_that_are_set_can_be_read(production: Plan, tested: Outcome) -> None:
    for plan in (production, tested.plans["behind_a_domain"]):
        for name, function in functions(plan).items():
            values = service_of(function)["environment_variables"]
            settings = config.Settings.from_environment(values)
            assert settings.functions_url == f"https://europe-central2-{PROJECT}.cloudfunctions.net"
            assert settings.serving_bucket == f"{PROJECT}-serving"
            if name == "dashboard":
                found = DashboardSettings.from_environment(
                    {**values, "TURNOUT_SECRET": "s" * 32, "K_SERVICE": "dashboard"}
                )
                assert found.tools == "gcloud"
                assert found.admins == {"owner@example.com"}
                assert (found.mode, found.forwarded_hops) in (("iam", 1), ("iap", 2))


def test_a_call_ends_before_its_caller_stops_waiting(production: Plan) -> None:
    waits_s = {int(found) for found in re.findall(r"timeout: (\d+)", WORKFLOW_FILE.read_text())}
    found = functions(production)
    for name in workflow_steps():
        assert service_of(found[name])["timeout_seconds"] <= min(waits_s)
    jobs = production.all("google_cloud_scheduler_job")
    for name in project.SCHEDULES:
        deadline = int(jobs[f'schedule["{name}"]']["attempt_deadline"].removesuffix("s"))
        assert service_of(found[name])["timeout_seconds"] == deadline <= 1800


def test_a_new_projects_quota_lets_everything_be_made(production: Plan, tested: Outcome) -> None:
    """Cloud Run refuses a service whose instances at most would need more than the quota."""
    for name, function in functions(production).items():
        service = service_of(function)
        most = service["max_instance_count"]
        assert most * float(service["available_cpu"]) <= QUOTA[0] / 2, name
        assert most * gib(service["available_memory"]) <= QUOTA[1], name
    templates = [
        one["template"][0]
        for plan in (production, tested.plans["two_models"])
        for one in plan.all("google_cloud_run_v2_service").values()
    ]
    assert len(templates) == 3
    for template in templates:
        most = template["scaling"][0]["max_instance_count"]
        limits = template["containers"][0]["resources"][0]["limits"]
        assert most * float(limits["cpu"]) <= QUOTA[0]
        assert most * gib(limits["memory"]) <= QUOTA[1]


def gib(memory: str) -> float:
    """Return an amount of memory such as 512Mi in GiB."""
    return float(memory[:-2]) / {"Mi": 1024, "Gi": 1}[memory[-2:]]


def test_only_what_is_called_by_name_or_by_people_is_open_to_the_internet(
    production: Plan, tested: Outcome
) -> None:
    inside = {*project.SCHEDULES, "on_training_completed", "on_deployment_event"}
    for name, function in functions(production).items():
        expected = "ALLOW_INTERNAL_ONLY" if name in inside else "ALLOW_ALL"
        assert service_of(function)["ingress_settings"] == expected, name
    dashboard = functions(tested.plans["behind_a_domain"])["dashboard"]
    assert service_of(dashboard)["ingress_settings"] == "ALLOW_INTERNAL_AND_GCLB"


# --- Who may do what -------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["production", "behind_a_domain"])
def test_nothing_is_public_but_the_prediction_services(tested: Outcome, run: str) -> None:
    plan = tested.plans[run]
    for kind in plan.kinds:
        for address, values in plan.all(kind).items():
            assert not PUBLIC & set(texts(values)), f"{kind}.{address}"
    services = plan.all("google_cloud_run_v2_service")
    open_to_all = {one["name"] for one in services.values() if one["invoker_iam_disabled"]}
    # They check API keys themselves: docs/decisions/0016.
    assert open_to_all == {"model-serving-movies"}
    buckets = plan.all("google_storage_bucket").values()
    assert buckets
    for bucket in buckets:
        assert bucket["public_access_prevention"] == "enforced"
        assert bucket["uniform_bucket_level_access"]


def test_each_function_is_called_by_those_who_call_it(production: Plan) -> None:
    scheduled = {name: {email("scheduler")} for name in project.SCHEDULES}
    expected = {
        **{name: {email("workflow")} for name in workflow_steps()},
        **scheduled,
        "on_training_completed": {email("training-trigger")},
        "on_deployment_event": {email("chat-trigger")},
        "cancel": {"ops@example.com"},
        "roll_back": {"ops@example.com"},
        "dashboard": {"ml@example.com"},
    }
    found: dict[str, set[str]] = {}
    for _, address, role, member in grants(production):
        if role == "roles/run.invoker":
            function = re.fullmatch(r'invoker\["(\w+) .*"\]', address)
            assert function, address
            found.setdefault(function[1], set()).add(member.partition(":")[2])
    assert found == expected
    assert set(found) == set(main.__all__)


@pytest.mark.parametrize("run", ["production", "behind_a_domain"])
def test_every_role_is_a_listed_one(tested: Outcome, run: str) -> None:
    plan = tested.plans[run]
    custom = {
        f"projects/{PROJECT}/roles/{role['role_id']}": role["permissions"]
        for role in plan.all("google_project_iam_custom_role").values()
    }
    given = set()
    for kind, address, role, _ in grants(plan):
        assert role in custom or role in PREDEFINED.get(kind, set()), f"{kind}.{address}: {role}"
        given.add(role)
    assert set(custom) <= given, "a role that nobody has"
    for role, granted in custom.items():
        for permission in granted:
            assert "*" not in permission
            assert "setIamPolicy" not in permission
            assert ("actAs" in permission) == role.endswith("_acts_as")


def test_the_table_of_roles_is_what_is_granted(production: Plan) -> None:
    parts = {one["account_id"] for one in production.all("google_service_account").values()}
    assert {part.replace("_", "-") for part in table("part_roles")} | {"serving"} == parts
    expected = {
        (email(part.replace("_", "-")), role)
        for part, roles in table("part_roles").items()
        for role in roles
    } | {(email("serving"), role) for role in SERVING}
    ours = f"projects/{PROJECT}/roles/turnout_"
    found = {
        (member.partition(":")[2], role.removeprefix(ours))
        for _, _, role, member in grants(production)
        if role.startswith(ours) and member.startswith("serviceAccount:")
    }
    acting = {(member, role) for member, role in found if role == "acts_as"}
    assert found - acting == expected
    assert {member for member, _ in acting} == {m for m, role in expected if role == "traffic"}


def test_what_is_not_on_the_project_is_on_the_thing_itself(production: Plan) -> None:
    topics = {
        "news": config.EVENTS_TOPIC,
        "dead_letters": config.DEAD_LETTER_TOPIC,
        "training_publisher": config.TRAINING_TOPIC,
    }
    for address, grant in production.all("google_pubsub_topic_iam_member").items():
        role = grant["role"].partition("/turnout_")[2]
        assert grant["topic"] == topics.get(role, grant["topic"]), address
    for address, grant in production.all("google_storage_bucket_iam_member").items():
        if grant["bucket"] == f"{PROJECT}-serving":
            [condition] = grant["condition"]
            bucket, objects = condition["expression"].split(" || ")
            # Whether an object that is not there is a 404 is asked of the bucket.
            assert bucket == "resource.type == 'storage.googleapis.com/Bucket'", address
            below = f"projects/_/buckets/{PROJECT}-serving/objects/models/"
            assert objects == f"resource.name.startsWith('{below}')", address
    on_project = {
        grant["role"].partition("/turnout_")[2]
        for grant in production.all("google_project_iam_member").values()
    }
    assert not on_project & {*topics, "traffic", "service_reader", "artifacts_writer", "acts_as"}


def test_a_container_can_read_neither_lists_of_keys_nor_training(production: Plan) -> None:
    granted = {role for _, _, role, member in grants(production) if email("serving") in member}
    roles = table("custom_roles")
    allowed = {
        permission for role in granted for permission in roles[role.partition("/turnout_")[2]]
    }
    assert "datastore.entities.list" not in allowed
    assert "datastore.entities.delete" not in allowed
    assert not {one for one in allowed if one.startswith(("run.", "workflows.", "iam.", "pubsub."))}
    buckets = {
        grant["bucket"]
        for grant in production.all("google_storage_bucket_iam_member").values()
        if email("serving") in grant["member"]
    }
    assert buckets == {f"{PROJECT}-serving"}


def test_only_reconcile_deletes_artifacts_and_revisions() -> None:
    for part in table("part_roles"):
        deletes = {one for one in permissions(part) if one.endswith(".delete")}
        allowed = {"datastore.entities.delete"}
        if part == "reconcile":
            allowed |= {"run.revisions.delete", "storage.objects.delete"}
        assert deletes <= allowed, part


def test_a_secret_is_read_by_the_one_function_that_needs_it(tested: Outcome) -> None:
    plan = tested.plans["behind_a_domain"]
    readers: dict[str, set[str]] = {}
    for name, function in functions(plan).items():
        for secret in service_of(function)["secret_environment_variables"]:
            readers.setdefault(secret["secret"], set()).add(name)
            # Another word than a number, and instances could start with different values.
            assert secret.get("version", "7") != "latest"
    assert readers == {"dashboard-secret": {"dashboard"}, "chat-webhook": {"on_deployment_event"}}
    for address, grant in plan.all("google_secret_manager_secret_iam_member").items():
        secret = address.split('"')[1]
        [reader] = readers[secret]
        assert grant["member"] == f"serviceAccount:{email(reader.replace('_', '-'))}"


def test_no_value_of_a_secret_is_kept_in_terraforms_state(production: Plan) -> None:
    for version in production.all("google_secret_manager_secret_version").values():
        assert version["secret_data"] is None
        assert version["secret_data_wo"] is None
    text = (ROOT / "terraform" / "variables.tf").read_text()
    declared = text[text.index('variable "dashboard_secret" {') :].partition("\n}\n")[0]
    assert re.search(r"^  ephemeral\s*= true$", declared, re.M)


# --- Messages --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "dead", "schema", "function", "deliveries"),
    [
        (
            config.TRAINING_TOPIC,
            config.DEAD_LETTER_TOPIC,
            "training_completed.proto",
            "on_training_completed",
            project.DELIVERIES_AT_MOST,
        ),
        (
            config.EVENTS_TOPIC,
            config.EVENTS_DEAD_LETTER_TOPIC,
            "deployment_event.proto",
            "on_deployment_event",
            project.CHAT_DELIVERIES_AT_MOST,
        ),
    ],
)
def test_a_topic_its_push_and_its_dead_letters(
    production: Plan, topic: str, dead: str, schema: str, function: str, deliveries: int
) -> None:
    topics = production.all("google_pubsub_topic")
    subscriptions = production.all("google_pubsub_subscription")
    main_topic = topics[f'topic["{topic}"]']
    assert main_topic["name"] == topic
    assert main_topic["schema_settings"][0]["encoding"] == "JSON"
    declared = production.all("google_pubsub_schema")[f'topic["{topic}"]']
    assert declared["type"] == "PROTOCOL_BUFFER"
    assert declared["definition"] == (ROOT / "shared" / schema).read_text()

    push = subscriptions[f'push["{topic}"]']
    assert (push["name"], push["topic"]) == (topic, topic)
    # A call that takes as long as it may has ended, and answered, before the message comes again.
    takes_s = service_of(functions(production)[function])["timeout_seconds"]
    assert takes_s < push["ack_deadline_seconds"] <= 600
    assert push["retry_policy"] == [{"minimum_backoff": "10s", "maximum_backoff": "600s"}]
    assert push["expiration_policy"] == [{"ttl": ""}]
    [to] = push["push_config"]
    url = service_of(functions(production)[function])["uri"]
    assert (to["push_endpoint"], to["oidc_token"][0]["audience"]) == (url, url)
    [policy] = push["dead_letter_policy"]
    assert policy == {
        "dead_letter_topic": f"projects/{PROJECT}/topics/{dead}",
        "max_delivery_attempts": deliveries,
    }

    assert topics[f'dead_letters["{topic}"]']["name"] == dead
    kept = subscriptions[f'dead_letters["{topic}"]']
    assert (kept["topic"], kept["push_config"], kept["expiration_policy"]) == (
        dead,
        [],
        [{"ttl": ""}],
    )
    granted = {
        (kind, values.get("topic") or values["subscription"], values["role"])
        for kind in (
            "google_pubsub_topic_iam_member",
            "google_pubsub_subscription_iam_member",
        )
        for values in production.all(kind).values()
        if values["member"] == PUBSUB
    }
    assert ("google_pubsub_topic_iam_member", dead, "roles/pubsub.publisher") in granted
    assert ("google_pubsub_subscription_iam_member", topic, "roles/pubsub.subscriber") in granted


# --- The workflow and its schedule -----------------------------------------------------------


def test_the_workflow_is_the_tested_file_under_the_name_that_is_started(production: Plan) -> None:
    [workflow] = production.all("google_workflows_workflow").values()
    text = WORKFLOW_FILE.read_text()
    assert workflow["source_contents"] == text
    assert len(text.encode()) < 128 * 1024
    assert yaml.safe_load(text)["main"]
    assert workflow["name"] == config.WORKFLOW
    read = set(re.findall(r'get_env\("(\w+)"\)', text))
    assert set(workflow["user_env_vars"]) == {x for x in read if not x.startswith("GOOGLE_CLOUD_")}
    url = workflow["user_env_vars"]["FUNCTIONS_URL"]
    assert url == f"https://europe-central2-{PROJECT}.cloudfunctions.net"


def test_what_is_scheduled_locally_is_scheduled(production: Plan) -> None:
    jobs = production.all("google_cloud_scheduler_job")
    assert set(jobs) == {f'schedule["{name}"]' for name in project.SCHEDULES}
    assert jobs['schedule["collect_metrics"]']["schedule"] == "7 * * * *"
    minutes = re.fullmatch(r"\*/(\d+) \* \* \* \*", jobs['schedule["reconcile"]']["schedule"])
    assert minutes
    assert int(minutes[1]) <= 5
    for name in project.SCHEDULES:
        [target] = jobs[f'schedule["{name}"]']["http_target"]
        url = service_of(functions(production)[name])["uri"]
        assert (target["uri"], target["oidc_token"][0]["audience"]) == (url, url)


# --- Firestore -------------------------------------------------------------------------------


def test_every_index_of_the_file_is_declared(production: Plan) -> None:
    file = json.loads((ROOT / "terraform" / "firestore.indexes.json").read_text())
    expected = [
        (one["collectionGroup"], one["queryScope"], [tuple(f.values()) for f in one["fields"]])
        for one in file["indexes"]
    ]
    found = [
        (
            one["collection"],
            one["query_scope"],
            [(field["field_path"], field["order"]) for field in one["fields"]],
        )
        for one in production.all("google_firestore_index").values()
    ]
    assert sorted(found) == sorted(expected)


def test_what_expires_is_deleted_and_what_nobody_asks_for_is_not_indexed(production: Plan) -> None:
    fields = production.all("google_firestore_field").values()
    expiring = {one["collection"] for one in fields if one["ttl_config"]}
    # An API key that has expired stays: who had it is part of the record.
    assert expiring == {"chat_posts", "customer_sketches", "idempotency", "rate_limits"}
    assert all(one["field"] == "expires_at" for one in fields if one["ttl_config"])
    bare = {(x["collection"], x["field"]) for x in fields if x["index_config"] == [{"indexes": []}]}
    assert ("customer_sketches", "sketch") in bare


def test_the_database_can_be_brought_back(production: Plan) -> None:
    [database] = production.all("google_firestore_database").values()
    assert database["name"] == "(default)"
    assert database["point_in_time_recovery_enablement"] == "POINT_IN_TIME_RECOVERY_ENABLED"
    backups = production.all("google_firestore_backup_schedule").values()
    assert {one["retention"] for one in backups} == {"604800s", "8467200s"}


# --- Models ----------------------------------------------------------------------------------


def _declared(plan: Plan, model_id: str) -> dict[str, Any]:
    document = plan.all("google_firestore_document")[f'model["{model_id}"]']
    assert (document["collection"], document["document_id"]) == ("model_configs", model_id)
    return from_firestore(json.loads(document["fields"]))


def _expected(model_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the local cloud would write, with the image, identity and project of this one."""
    image = fields.get("image", "turnout-serving")
    account = fields.get("service_account", "serving")
    model = ModelDeclaration.model_validate(
        {
            **fields,
            "model_id": model_id,
            "image": IMAGE if image == "turnout-serving" else image,
            "service_account": email(account),
            "region": fields.get("region", REGION),
            "env": {"TURNOUT_PROJECT": PROJECT, **fields.get("env", {})},
        }
    )
    return model.model_dump(mode="json")


def _read(file: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "terraform" / file).read_text()))


@pytest.mark.parametrize(
    ("run", "declared"),
    [
        ("production", _read("models.auto.tfvars.json")["models"]),
        ("two_models", _read("tests/every_field.json")),
        ("two_models", {"boots": {"golden_customers": ["17"]}}),
    ],
)
def test_a_models_configuration_is_what_the_pipeline_reads(
    tested: Outcome, run: str, declared: Mapping[str, Any]
) -> None:
    for model_id, fields in declared.items():
        document = _declared(tested.plans[run], model_id)
        assert document == _expected(model_id, fields)
        ModelDeclaration.model_validate(document)


def test_every_field_of_a_model_is_tried() -> None:
    """Each field of the declaration has another value than its default in every_field.json."""
    [(model_id, fields)] = _read("tests/every_field.json").items()
    plain = _expected(model_id, {})
    full = _expected(model_id, fields)

    def same(one: Any, other: Any, at: str) -> Iterator[str]:
        if isinstance(one, dict) and at != "env" and not at.endswith("guard_metrics"):
            for name in one:
                yield from same(one[name], other[name], f"{at}.{name}".strip("."))
        elif one == other:
            yield at

    assert list(same(plain, full, "")) == ["model_id"]


@pytest.mark.parametrize(
    "words", [DeployWhen, Strategy, Superseding, Drift, Checking, OnInconclusive, RetrievalKind]
)
def test_the_words_of_a_policy_are_the_codes(words: type[StrEnum]) -> None:
    text = (ROOT / "terraform" / "variables.tf").read_text()
    assert json.dumps([word.value for word in words]) in text


def test_a_model_begins_as_the_empty_v0_and_has_its_job(tested: Outcome) -> None:
    for run in ("production", "two_models"):
        plan = tested.plans[run]
        for id_, service in plan.all("google_cloud_run_v2_service").items():
            model = ModelDeclaration.model_validate(_declared(plan, id_.split('"')[1]))
            assert service["name"] == model.config.service
            [template] = service["template"]
            assert template["revision"] == f"{model.config.service}-v0-1"
            assert template["service_account"] == model.service_account
            assert template["max_instance_request_concurrency"] == model.concurrency
            assert template["scaling"][0]["max_instance_count"] == model.max_instances
            assert not template["scaling"][0].get("min_instance_count")
            assert service["scaling"][0]["min_instance_count"] == model.min_instances
            [container] = template["containers"]
            assert container["image"] == model.image
            assert {one["name"] for one in container["env"]} == {"MODEL_ID", "TURNOUT_PROJECT"}
            [resources] = container["resources"]
            assert resources["limits"] == {"cpu": model.cpu, "memory": model.memory}
            assert (resources["cpu_idle"], resources["startup_cpu_boost"]) == (False, True)
            assert not service.get("traffic") or isinstance(service["traffic"], str)

            [job] = [
                one
                for one in plan.all("google_cloud_run_v2_job").values()
                if one["name"] == model.config.job
            ]
            [execution] = job["template"]
            [task] = execution["template"]
            assert execution["task_count"] == model.prepare.tasks
            assert task["max_retries"] == project.TASK_RETRIES
            assert task["timeout"] == f"{project.TASK_TIMEOUT_S}s"
            assert task["containers"][0]["args"] == ["prepare"]
            assert task["service_account"] == email("prepare")


def test_what_holds_data_or_serves_is_not_deleted_by_mistake(
    production: Plan, tested: Outcome
) -> None:
    unprotected = tested.plans["behind_a_domain"]
    for plan, protected in ((production, True), (unprotected, False)):
        for kind in (
            "google_cloud_run_v2_job",
            "google_secret_manager_secret",
            "google_workflows_workflow",
        ):
            for found in plan.all(kind).values():
                assert found["deletion_protection"] is protected
        for kind in ("google_firestore_database", "google_firestore_document"):
            for found in plan.all(kind).values():
                assert found["deletion_policy"] == ("PREVENT" if protected else "DELETE")
        for address, bucket in plan.all("google_storage_bucket").items():
            assert bucket["force_destroy"] is (address == "source" or not protected)
    for service in production.all("google_cloud_run_v2_service").values():
        assert service["deletion_protection"]


def test_what_destroy_takes_for_protected_is_what_is(production: Plan, tested: Outcome) -> None:
    def protected(plan: Plan) -> set[str]:
        return {
            kind
            for kind in plan.kinds
            for address, values in plan.all(kind).items()
            if Resource(address, kind, values).protected
        }

    assert protected(production) == {
        "google_cloud_run_v2_job",
        "google_cloud_run_v2_service",
        "google_firestore_database",
        "google_firestore_document",
        "google_secret_manager_secret",
        "google_storage_bucket",
        "google_workflows_workflow",
    }
    # Nothing ever takes it off a service: `destroy` deletes these with gcloud.
    assert protected(tested.plans["behind_a_domain"]) == {"google_cloud_run_v2_service"}


def test_no_edit_ever_touches_a_service(tested: Outcome) -> None:
    later = tested.plans["an_edit_later"]
    assert later.actions("google_cloud_run_v2_service") == {'model["movies"]': ["no-op"]}
    assert later.actions("google_firestore_document") == {'model["movies"]': ["update"]}


def test_the_schema_is_of_what_is_used() -> None:
    schema = read_schema()
    known = {(kind, name) for kind in ("resource", "data") for name in schema[kind]}
    assert known == used(), "python -m tests.terraform.extract_schema WHEEL writes it anew"
