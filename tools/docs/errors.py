"""docs/reference/errors.md: every error, from its class, and what to do next."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus

from serving.errors import LoadError, ServingError
from shared.errors import PipelineError
from tools.docs.markdown import code, first_paragraph, generated, table

# Where errors are declared beside shared.errors.
MODULES = ("functions.dashboard.errors", "turnout.target", "turnout.calling", "turnout.demo")

BASES = (PipelineError, ServingError)

NEXT: Mapping[str, str] = {
    "pipeline_error": "Read the function's log; the same call may be sent again.",
    "invalid_request": "Correct the fields that `detail` names.",
    "not_found": "List what there is: `turnout models`, `turnout runs`, `turnout deployments`.",
    "conflict": "Look at the deployment as it is now (`turnout deployments`) and decide again.",
    "transition_refused": "The deployment has ended or moved on: look at it, then decide again.",
    "superseded": "Nothing: a newer rollout, rollback or cancel is in charge.",
    "nothing_to_roll_back_to": "Publish another run; or `turnout cancel` the rollout under way.",
    "refused": "Change what `detail` names; the same request will be refused again.",
    "message_refused": "Correct the message and publish it again; `turnout plan` says beforehand "
    "what a message would do.",
    "artifacts_refused": "Upload the run's artifacts completely, and publish it under a new "
    "request id.",
    "model_refused": "Correct the model's export as `detail` says and train a new run.",
    "preparation_failed": "Read the job's logs, which `detail` links to. Mostly memory: raise the "
    "model's `memory`, or share the work among more `prepare.tasks`.",
    "revision_failed": "Read the revision's logs: it did not start, or not in time.",
    "health_check_failed": "Compare what `detail` says with what training reported; traffic never "
    "reached the candidate.",
    "unavailable": "Try again; the pipeline does so by itself.",
    "revision_not_ready": "Nothing at first: it is tried again. If it ends so, read the revision's "
    "logs.",
    "traffic_not_applied": "Nothing: the next try or `reconcile` completes it.",
    "quota_exceeded": "Nothing at first: it is tried again later. If it recurs, raise the quota "
    "([limits](../limits.md)).",
    "state_is_older": "Run `turnout recover MODEL`: Firestore was restored or lost, and nothing is "
    "moved until then.",
    "not_identified": "Send `Authorization: Bearer ID_TOKEN`: `gcloud auth print-identity-token`.",
    "not_allowed": "Ask an admin for the role that `detail` names.",
    "forged_request": "Open the page again and send its form from there.",
    "changed": "Read the deployment again, and send the request with its new ETag.",
    "not_json": "Send `Content-Type: application/json`.",
    "other_request": "Use a new `Idempotency-Key` for a new request.",
    "too_many": "Wait for as long as `Retry-After` says.",
    "local_cloud_not_running": "`make up`, or name a project with `--project`.",
    "demo_failed": "Read what is printed above it, and the logs below `.turnout/demo`.",
    "internal_error": "Tell whoever runs the service; its log has the stack.",
    "unsupported_media_type": "Send `Content-Type: application/json`.",
    "invalid_json": "Send one JSON object as the body.",
    "invalid_field": "Correct the field that is named.",
    "missing_field": "Add the field that is named.",
    "unknown_field": "Leave the field out that is named.",
    "too_many_customers": "Split the batch.",
    "no_customers": "Send at least one customer id.",
    "top_k_out_of_range": "Ask for as many products as the message allows.",
    "answer_too_large": "Send smaller batches or a smaller `top_k`.",
    "missing_api_key": "Send `Authorization: Bearer KEY`.",
    "invalid_api_key": "Create a key: `turnout keys create MODEL --name WHAT-FOR`.",
    "keys_unavailable": "Try again as `Retry-After` says; keys known already go on working.",
    "model_not_ready": "Try again as `Retry-After` says; `GET /health` says what is missing.",
    "model_busy": "Try again as `Retry-After` says; if it recurs, raise `max_instances`.",
    "too_many_requests": "Wait as `Retry-After` says.",
    "model_error": "Ask `turnout rollback` for the version before; the container's log has the "
    "customer-free reason.",
    "load_failed": "Read the revision's log; a deployment never gives such a revision traffic.",
    "invalid_configuration": "Correct the variable that is named ([settings](settings.md)).",
    "artifact_unavailable": "Nothing at first: the container is started again.",
    "artifact_mismatch": "Deploy again; what is stored was changed after the deployment.",
    "model_contract": "Export the functions that the serving contract asks for.",
    "model_warm_up": "Look for NaN or unordered scores in the export.",
    "recall_too_low": "Set `retrieval.kind` to `exact`, or lower `retrieval.minimum_recall`.",
}


def page() -> str:
    """Return the page; ValueError names the code for which nothing says what to do."""
    for module in MODULES:
        importlib.import_module(module)
    pipeline, container = list(_tree(PipelineError)), list(_tree(ServingError))
    return "\n".join(
        [
            generated(
                "Errors",
                "shared/errors.py, functions/dashboard/errors.py and serving/errors.py",
                "Every error is a problem document (RFC 9457): `title`, `status`, a stable `code`, "
                "and `detail`, which says in this very case what happened and what to do.\n\n"
                "The workflow tries 429 and 5xx again, and anything else ends the rollout, with "
                "the traffic as it was before.",
            ),
            "## Pipeline, dashboard and command line\n",
            _table(pipeline),
            "## Prediction API\n",
            _table([one for one in container if not issubclass(one, LoadError)]),
            "## A container that does not start\n",
            "These end the container's process with exit code 1; the revision fails, and so does "
            "the rollout, before any traffic.\n",
            _table([one for one in container if issubclass(one, LoadError)]),
        ]
    )


Kind = type[PipelineError] | type[ServingError]


def _tree(base: Kind) -> Iterator[Kind]:
    yield base
    # In the order of their files, whichever was imported first.
    for one in sorted(base.__subclasses__(), key=_place):
        yield from _tree(one)


def _place(kind: Kind) -> tuple[bool, str, int]:
    elsewhere = kind.__module__ in MODULES
    return elsewhere, kind.__module__, inspect.getsourcelines(kind)[1]


def _table(kinds: Iterable[Kind]) -> str:
    # A class that has its parent's code is the same error to whoever reads it.
    own = [one for one in kinds if "code" in vars(one)]
    return table(["Code", "Status", "Meaning", "What to do"], map(_row, own))


def _row(kind: Kind) -> list[str]:
    status = f"{kind.http_status} {HTTPStatus(kind.http_status).phrase}"
    if kind.code not in NEXT:
        raise ValueError(f"say in tools/docs/errors.py what to do about {kind.code!r}")
    means = "Nobody expected this." if kind in BASES else first_paragraph(inspect.getdoc(kind))
    return [code(kind.code), status, means, NEXT[kind.code]]
