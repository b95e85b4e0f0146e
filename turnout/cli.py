"""The commands of `turnout`."""

from __future__ import annotations

import json
import os
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import requests
import typer
from google.api_core.exceptions import GoogleAPICallError, RetryError

from shared import wiring
from shared.config import TRAINING_TOPIC
from shared.domain.deployment import Deployment, service_of
from shared.domain.model import LockKind
from shared.domain.quality_gate import DeployWhen
from shared.domain.rollout import Strategy
from shared.domain.traffic import describe, version_of
from shared.errors import InvalidRequest, NotFound, Unavailable
from shared.messages import Deploy
from shared.requesting import message_to_deploy
from shared.tracing import trace_id as trace_id_of
from turnout.calling import answer_of, call
from turnout.dashboard import Api, document_of, show_dashboard
from turnout.output import (
    FAILURES,
    console,
    errors,
    harmless,
    moment,
    print_json,
    print_table,
    problem_of,
    share,
)
from turnout.planning import show_plan
from turnout.target import choose
from turnout.traces import draw, fetch, link_of
from turnout.traces import show as show_trace
from turnout.watching import follow, show

REFUSED, UNREACHABLE, NOT_ACTIVE = 1, 3, 4
DATA = Path(os.environ.get("TURNOUT_DATA", ".turnout"))

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Put a freshly trained recommendation model into production, and take it back.\n\n"
        "Without --project the commands talk to the local cloud that `turnout up` started; "
        "with --project (or TURNOUT_PROJECT) the same commands talk to Google Cloud.\n\n"
        "Exit codes: 0 done, 1 refused, 2 wrong usage, 3 the cloud cannot be reached or cannot do "
        "it just now (try again), 4 the deployment that was watched did not become active."
    ),
)
keys_app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
app.add_typer(keys_app, name="keys")

ModelArgument = Annotated[
    str | None, typer.Argument(help="Model id; may be left out where only one is declared.")
]
RolloutArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="DEPLOYMENT|MODEL",
        help="Deployment id, or the model whose rollout it is; may be left out where only one "
        "model is declared.",
    ),
]
NO_REASON = "no reason given"
Reason = Annotated[str, typer.Option(help="Why, for the history.")]
KnownRun = Annotated[
    int | None, typer.Option(help="A training run that is known: publish it again to deploy.")
]
When = Annotated[DeployWhen, typer.Option(help="Deploy always, only if better, or not.")]
HowTrafficMoves = Annotated[Strategy | None, typer.Option(help="How traffic moves.")]
Steps = Annotated[str, typer.Option(help="Steps in percent, such as 10,50,100.")]
Over = Annotated[str, typer.Option(help="The rollout's whole bake time: 1h, 30m, 90s.")]
RequestId = Annotated[
    str, typer.Option(help="Which request this is; a repeat of one deploys nothing new.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.callback()
def main_options(
    context: typer.Context,
    project: Annotated[
        str | None, typer.Option(help="Google Cloud project; without it, the local cloud.")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Region of the project.")] = None,
    data: Annotated[Path, typer.Option(help="Folder of the local cloud.")] = DATA,
) -> None:
    """Say where the commands go; they connect only when they need to."""
    context.obj = (project, region, data)


@app.command()
def up(
    context: typer.Context,
    models: Annotated[
        Path | None, typer.Option(help="Declaration of the models, as Terraform reads it.")
    ] = None,
    google_firestore: Annotated[
        bool,
        typer.Option(
            "--google-firestore",
            help="Keep documents in Google's emulator (needs java and the Google Cloud SDK; "
            "they are gone when it stops).",
        ),
    ] = False,
) -> None:
    """Start the local cloud and stay in front of it; Ctrl-C stops it, its data stay.

    Pub/Sub, Firestore, Cloud Storage, Cloud Run, Workflows, Monitoring, the functions and
    the scheduler, on free ports of 127.0.0.1. Needs the `local` and `serving` extras.
    """
    from localcloud import project, server  # heavy, and not installed in production

    raise SystemExit(server.run(context.obj[2], models or project.MODELS_FILE, google_firestore))


@app.command()
def demo(
    context: typer.Context,
    as_json: AsJson = False,
    bake: Annotated[int, typer.Option(help="Seconds that each step of the rollout bakes.")] = 10,
) -> None:
    """Train two real models, put them into production under load, and roll back.

    Runs in a local cloud of its own, below the --data folder, from nothing every time. Exit
    code 0 only when both versions went live by their messages, the traffic split was as
    asked at each step, the rollback held, and not one prediction request failed.
    """
    from turnout.demo import run_demo  # needs the `local`, `serving` and `examples` extras

    raise SystemExit(run_demo(context.obj[2], bake, as_json))


@app.command()
def publish(
    context: typer.Context,
    model: ModelArgument = None,
    run: KnownRun = None,
    file: Annotated[
        Path | None,
        typer.Option(help="A training-completed message as JSON; - reads it from stdin."),
    ] = None,
    when: When = DeployWhen.ALWAYS,
    strategy: HowTrafficMoves = None,
    steps: Steps = "",
    over: Over = "",
    request_id: RequestId = "",
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow the deployment.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a training-completed message: the only way in.

    Either a message from a file, sent as it is:

        turnout publish --file message.json

    or a known run, deployed (again) by a fresh request:

        turnout publish movies --run 2 --strategy gradual --steps 10,50 --over 10m --watch
    """
    connect(context)
    message = _asked(model, run, file, _deploy(when, strategy, steps, over, request_id))
    message_id = wiring.topic(TRAINING_TOPIC).publish(json.dumps(message).encode(), {})
    deploy_block = message.get("deploy") or {}
    deployment_id = "-".join(
        str(part)
        for part in (
            message.get("model_id"),
            message.get("run_number"),
            deploy_block.get("request_id") or "auto",
        )
    )
    result = {"message_id": message_id, "deployment_id": deployment_id}
    if as_json and not watch_it:
        print_json(result)
    elif not as_json:
        console.print(f"published as message {message_id}; deployment {deployment_id}")
    if watch_it:
        _watch(deployment_id, as_json, patience_s=60)


@app.command()
def plan(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(help="A training-completed message as JSON; - reads it from stdin."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model id of the known run.")] = None,
    run: KnownRun = None,
    when: When = DeployWhen.ALWAYS,
    strategy: HowTrafficMoves = None,
    steps: Steps = "",
    over: Over = "",
    request_id: RequestId = "",
    as_json: AsJson = False,
) -> None:
    """Say what a message would do, and why, without doing anything.

    Either a message from a file, or a known run as `turnout publish` would send it:

        turnout plan message.json

        turnout plan --model movies --run 2 --when if_better

    Exit code 1 where the message would be refused.
    """
    connect(context)
    message = _asked(model, run, file, _deploy(when, strategy, steps, over, request_id))
    found = call("dashboard", message, "/api/plan/")
    if as_json:
        print_json(found)
    else:
        show_plan(found)
    if found["outcome"] == "refused":
        raise SystemExit(REFUSED)


@app.command()
def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models: what is live, where it answers, and what is under way."""
    connect(context)
    found = [_overview(model_id) for model_id in wiring.state().model_ids()]
    if as_json:
        return print_json(found)
    return print_table(
        "Models",
        ["Model", "Live", "Traffic", "Under way", "URL"],
        [
            [one[name] for name in ("model_id", "live", "traffic", "under_way", "url")]
            for one in found
        ],
    )


@app.command()
def runs(context: typer.Context, model: ModelArgument = None, as_json: AsJson = False) -> None:
    """List training runs: what was measured, and what the quality gate said."""
    connect(context)
    model_id = _model(model)
    found = wiring.state().runs(model_id)
    if as_json:
        return print_json(found)
    return print_table(
        f"Training runs of {model_id}",
        ["Run ", "R@100 ", "R@50 ", "R@10 ", "Completed", "Gate"],
        [
            [
                str(one["run_number"]),
                *(share(one["metrics"].get(f"recall_at_{k}")) for k in (100, 50, 10)),
                moment(one["completed_at"]),
                "; ".join(
                    f"{name}: {decision['why']}"
                    for name, decision in sorted(one.get("decisions", {}).items())
                ),
            ]
            for one in found
        ],
    )


@app.command()
def deployments(
    context: typer.Context, model: ModelArgument = None, as_json: AsJson = False
) -> None:
    """List a model's versions: status, traffic, who deployed them, and why they ended."""
    connect(context)
    model_id = _model(model)
    found = wiring.state().deployments(model_id)
    if as_json:
        return print_json(found)
    return print_table(
        f"Versions of {model_id}",
        ["Version", "Run ", "Status", "Traffic ", "R@100 ", "Created", "By", "Id", "Reason"],
        [
            [
                one.name,
                str(one.training_run),
                "waiting" if one.waiting else one.status.value,
                f"{one.traffic_percent} %",
                share(one.recall_at_100),
                moment(one.created_at),
                one.deployed_by,
                one.id,
                one.reason,
            ]
            for one in found
        ],
    )


@app.command()
def watch(
    context: typer.Context,
    deployment: Annotated[
        str | None, typer.Argument(help="Deployment id; without it, the newest of the model.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model id.")] = None,
    as_json: AsJson = False,
) -> None:
    """Follow a deployment: a bar, each step, and an estimate of the time left.

    Ends when the rollout does: exit code 0 when it became active, 4 when it did not.
    """
    connect(context)
    _watch(deployment or _newest(model).id, as_json)


@app.command()
def trace(
    context: typer.Context,
    deployment: Annotated[
        str | None, typer.Argument(help="Deployment id; without it, the newest of the model.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model id.")] = None,
    calls: Annotated[bool, typer.Option("--calls", help="Each call of an API, too.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show a deployment's trace: its message, each step, each try, and the first request.

    In production it says where Google's console shows it.
    """
    connect(context)
    found = wiring.state().deployment(deployment) if deployment else _newest(model)
    trace_id = trace_id_of(found.trace)
    if not trace_id:
        raise NotFound(f"{found.id!r} was deployed without a trace")
    if not wiring.settings().grpc_emulator:
        link = link_of(trace_id, wiring.settings().project)
        return print_json({"trace_id": trace_id, "url": link}) if as_json else console.print(link)
    spans, title = fetch(trace_id, calls), f"{found.model_id} {found.name}, trace {trace_id}"
    if svg:
        svg.write_text(draw(title, spans))
    return print_json(spans) if as_json else show_trace(title, spans)


@app.command()
def rollback(
    context: typer.Context,
    model: ModelArgument = None,
    to: Annotated[
        str, typer.Option(help="Version to go back to, such as v2; or the one before.")
    ] = "",
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", help="Ask first whether that version is ready and healthy."
        ),
    ] = True,
    reason: Reason = NO_REASON,
    as_json: AsJson = False,
) -> None:
    """Give all traffic back to an earlier version, now, even in the middle of a rollout.

    A version whose revision was cleared away is deployed again from its kept artifacts: that
    takes minutes, and this says how to follow it.

        turnout rollback movies --to v2 --reason "answers look odd"

    When the check itself is in the way:

        turnout rollback movies --no-check --reason "the health check is what is broken"
    """
    connect(context)
    body: dict[str, Any] = {
        "model_id": _model(model),
        "check": check,
        "reason": reason,
        "requested_by": _person(),
    }
    if to:
        body["version"] = _version(to)
    done = call("roll_back", body)
    under_way = not any(version_of(one) == done["version"] for one in done["traffic"])
    _answer({**done, "under_way": under_way}, as_json, "{said}")
    if under_way and not as_json:
        follow_it = f"turnout watch {done['deployment_id']}"
        console.print(f"That is under way and not done yet; follow it with `{follow_it}`.")


@app.command()
def cancel(
    context: typer.Context,
    deployment: Annotated[
        str, typer.Argument(help="Deployment id, as `turnout deployments` shows.")
    ],
    reason: Reason = NO_REASON,
    as_json: AsJson = False,
) -> None:
    """Stop a rollout that is running or waiting; traffic goes back where it was.

    turnout cancel movies-2-first-try --reason "wrong run"
    """
    connect(context)
    body = {"deployment_id": deployment, "reason": reason, "requested_by": _person()}
    _answer(call("cancel", body), as_json, "{deployment_id} is {status}")


@app.command()
def recover(
    context: typer.Context,
    models: Annotated[
        list[str] | None, typer.Argument(help="Model ids; without any, all that are declared.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the documents back to what Cloud Run serves, after a disaster.

    For when Firestore was restored to an earlier time, or lost, or a model's service was lost.
    Traffic is not moved: the documents follow it. Where a service was lost, its active version
    is deployed again from its kept artifacts. What is well is left alone. It acts as you, not
    as a function, and needs the roles that docs/disaster-recovery.md names. Exit code 1 where
    a model could not be recovered; the others are.

        turnout recover --dry-run
    """
    from turnout.recovering import recover_all  # only this command does a function's work itself

    connect(context)
    if not recover_all(models or [], _person(), dry_run, as_json):
        raise SystemExit(REFUSED)


@app.command()
def pause(
    context: typer.Context,
    rollout: RolloutArgument = None,
    reason: Reason = NO_REASON,
    as_json: AsJson = False,
) -> None:
    """Keep a rollout at its share of traffic until `resume`; a breach still ends it.

    turnout pause movies --reason "the shop has a sale until noon"
    """
    _say(context, "pause", rollout, reason, as_json)


@app.command()
def resume(
    context: typer.Context,
    rollout: RolloutArgument = None,
    reason: Reason = NO_REASON,
    as_json: AsJson = False,
) -> None:
    """Let a paused rollout go on.

    turnout resume movies --reason "the sale is over"
    """
    _say(context, "resume", rollout, reason, as_json)


@app.command()
def approve(
    context: typer.Context,
    rollout: RolloutArgument = None,
    at: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="The share of traffic, in percent, that it may go on from."
        ),
    ] = None,
    reason: Reason = NO_REASON,
    as_json: AsJson = False,
) -> None:
    """Let a rollout go on to its next share now, also one that waits for a person.

    One that waits for nobody takes the share that you saw it at, so that an approval that comes
    late, or twice, lets no share through that nobody looked at.

        turnout approve movies --reason "the numbers look right to me"

        turnout approve movies --at 10 --reason "it need not bake as long"
    """
    _say(context, "approve", rollout, reason, as_json, at)


@app.command()
def skip(
    context: typer.Context,
    rollout: RolloutArgument = None,
    reason: Reason = NO_REASON,
    as_json: AsJson = False,
) -> None:
    """Let a rollout go on to all of the traffic now; nobody compares it in between.

    turnout skip movies --reason "live is broken, this one is not"
    """
    _say(context, "skip", rollout, reason, as_json)


@app.command()
def predict(
    context: typer.Context,
    customers: Annotated[list[str], typer.Argument(help="Customer ids, at most 1000.")],
    model: Annotated[str | None, typer.Option(help="Model id.")] = None,
    top_k: Annotated[int, typer.Option("--top-k", help="How many products each.")] = 10,
    key: Annotated[
        str, typer.Option(envvar="TURNOUT_API_KEY", help="API key; see `turnout keys create`.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Ask the prediction API for recommendations, as an application would."""
    connect(context)
    if not key:
        raise InvalidRequest("give an API key with --key or TURNOUT_API_KEY")
    url = wiring.cloud_run().service(service_of(_model(model))).url
    answer = requests.post(
        f"{url}/recommend-batch",
        json={"customer_ids": customers, "top_k": top_k},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )
    body = answer_of(answer)
    if as_json:
        return print_json(body)
    return print_table(
        f"Recommended by {body.get('model_version')} at {url}",
        ["Customer", "Products, best first"],
        [
            [
                one["customer_id"] + ("" if one.get("known", True) else " (unknown)"),
                ", ".join(f"{r['product_id']} ({r['score']:.3f})" for r in one["recommendations"]),
            ]
            for one in body["results"]
        ],
    )


@app.command()
def calls(context: typer.Context, as_json: AsJson = False) -> None:
    """List which part of the local cloud called which method of which service, and how often."""
    from localcloud import calls as recorded  # not installed in production

    try:
        found = recorded.read(context.obj[2])
    except FileNotFoundError as missing:
        raise Unavailable(str(missing)) from None
    if as_json:
        print_json([{**call._asdict(), "count": count} for call, count in found.items()])
        return
    print_table(
        "API calls",
        ("Caller", "Method", "Of what", "Count "),
        [(*call, str(count)) for call, count in found.items()],
    )


@app.command("open")
def open_dashboard(
    context: typer.Context,
    port: Annotated[int, typer.Option(help="Local port of the proxy to a project.")] = 8080,
    browser: Annotated[bool, typer.Option(help="Open a browser, or only say where.")] = True,
) -> None:
    """Open the dashboard in a browser.

    In production the dashboard is private: this starts gcloud's authenticated proxy and
    stays in front of it; Ctrl-C ends it.
    """
    connect(context)
    raise SystemExit(show_dashboard(wiring.settings(), port, browser))


@app.command()
def openapi(
    which: Annotated[Api, typer.Argument(help="The dashboard's API, or the prediction API.")],
) -> None:
    """Print an OpenAPI 3.1 document, generated from the code's own types."""
    print_json(document_of(which))


@keys_app.command("create")
def keys_create(
    context: typer.Context,
    model: ModelArgument = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    days: Annotated[float, typer.Option(min=0, help="Days until it expires; 0 for never.")] = 0,
    per_minute: Annotated[
        int, typer.Option(min=0, help="Requests a minute, all instances together; 0: no limit.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Create an API key; it is shown once and stored nowhere."""
    connect(context)
    model_id = _model(model)
    _known_model(model_id)
    key_id, plain = wiring.keys().create(
        model_id, name, _person(), days * 86400 or None, per_minute or None
    )
    if as_json:
        return print_json({"id": key_id, "key": plain, "model_id": model_id})
    errors.print("Keep it now, it cannot be shown again. Send it as `Authorization: Bearer KEY`.")
    return print(plain)


@keys_app.command("list")
def keys_list(context: typer.Context, model: ModelArgument = None, as_json: AsJson = False) -> None:
    """List a model's API keys by their first eight characters."""
    connect(context)
    model_id = _model(model)
    found = wiring.keys().list(model_id)
    if as_json:
        return print_json(found)
    return print_table(
        f"API keys of {model_id}",
        ["Begins", "Name", "State", "A minute ", "Created", "By", "Id"],
        [
            [
                one["key_prefix"],
                one["name"],
                _key_state(one),
                str(one.get("requests_per_minute") or "-"),
                moment(one["created_at"]),
                one["created_by"],
                one["id"],
            ]
            for one in found
        ],
    )


@keys_app.command("revoke")
def keys_revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(help="Id, as `turnout keys list` shows.")],
    as_json: AsJson = False,
) -> None:
    """Make an API key invalid; containers notice within 30 seconds."""
    connect(context)
    wiring.keys().revoke(key_id)
    if as_json:
        return print_json({"id": key_id, "is_active": False})
    return console.print("revoked; every serving container refuses it within 30 seconds")


def connect(context: typer.Context) -> None:
    """Point Google's clients at the cloud that was asked for."""
    choose(*context.obj)


def main() -> None:
    """Run a command; an error is one sentence (or a problem document) and an exit code."""
    try:
        app()
    except FAILURES as error:
        problem = problem_of(error)
        _complain(problem)
        later = problem["status"] == 429 or problem["status"] >= 500
        raise SystemExit(UNREACHABLE if later else REFUSED) from None


def _complain(problem: dict[str, Any]) -> None:
    if "--json" in sys.argv:
        print_json(problem)
    else:
        detail = harmless(problem["detail"])
        errors.print(f"turnout: {detail}", style="red", highlight=False, markup=False)


def _watch(deployment_id: str, as_json: bool, patience_s: float = 0.0) -> None:
    _wait_for(deployment_id, patience_s)
    if as_json:
        last = None
        for deployment in follow(wiring.state(), deployment_id):
            last = deployment
            print(json.dumps({"status": deployment.status, "traffic": deployment.traffic_percent}))
        ended = last
    else:
        ended = show(wiring.state(), deployment_id)
    if ended is None or ended.deployed_at is None:
        raise SystemExit(NOT_ACTIVE)


def _wait_for(deployment_id: str, patience_s: float) -> Deployment:
    """Return the deployment once its message was handled; NotFound after `patience_s`."""
    clock = wiring.SystemClock()
    until = clock.now().timestamp() + patience_s
    while True:
        try:
            return wiring.state().deployment(deployment_id)
        except NotFound:
            if clock.now().timestamp() >= until:
                raise NotFound(
                    f"there is no deployment {deployment_id!r}; `turnout runs` shows what the "
                    "quality gate said, and refused messages are in the dead-letter topic"
                ) from None
            clock.sleep(0.5)


def _asked(
    model: str | None,
    run: int | None,
    file: Path | None,
    deploy: Deploy,
) -> dict[str, Any]:
    """Return the message in the file as it is, or that of a known run with `deploy`."""
    if (run is None) == (file is None):
        raise InvalidRequest("give either --run N or the file of a message (--file to publish)")
    if file is not None:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        return _decoded(text, file)
    return _message_of(_model(model), int(run or 0), deploy)


def _deploy(
    when: DeployWhen, strategy: Strategy | None, steps: str, over: str, request_id: str
) -> Deploy:
    return Deploy(
        when=when,
        strategy=strategy,
        steps_percent=tuple(_percents(steps)),
        over=over,
        requested_by=_person(),
        request_id=request_id or secrets.token_hex(4),
    )


def _message_of(model_id: str, run_number: int, deploy: Deploy) -> dict[str, Any]:
    run = wiring.state().run(f"{model_id}-{run_number}")
    if run is None:
        raise NotFound(f"{model_id!r} has no training run {run_number}; `turnout runs` lists them")
    return message_to_deploy(run, deploy)


def _model(model: str | None) -> str:
    if model:
        return model
    known = wiring.state().model_ids()
    if len(known) == 1:
        return known[0]
    raise InvalidRequest(f"name a model: {', '.join(known) or 'none is declared yet'}")


def _newest(model: str | None) -> Deployment:
    known = wiring.state().deployments(_model(model))
    if not known:
        raise NotFound("nothing was ever deployed here; `turnout publish --help` shows how")
    return known[0]


def _overview(model_id: str) -> dict[str, str]:
    state = wiring.state()
    model = state.model(model_id)
    traffic, url = _served(service_of(model_id))
    return {
        "model_id": model_id,
        "live": state.deployment(model.active).name if model.active else "nothing yet",
        "traffic": traffic,
        "under_way": f"{model.lock.kind} of {model.lock.deployment_id}" if model.lock else "-",
        "url": url,
    }


def _served(service: str) -> tuple[str, str]:
    """Return a service's traffic and URL; one that cannot be read hides no other model."""
    try:
        found = wiring.cloud_run().service(service)
    except NotFound:
        return "not applied yet", "-"
    except (GoogleAPICallError, RetryError, Unavailable) as error:
        errors.print(f"{service}: {error}", style="red", highlight=False, markup=False)
        return "unknown", "-"
    return describe(found.split), found.url


def _say(
    context: typer.Context,
    verb: str,
    rollout: str | None,
    reason: str,
    as_json: bool,
    percent: int | None = None,
) -> None:
    """Send a person's word on a rollout to the REST API, which checks the role.

    An approval says at which share; without `percent`, the one at which it waits for a person.
    """
    connect(context)
    deployment_id = _rollout(rollout)
    body: dict[str, Any] = {"reason": reason}
    if verb == "approve":
        body["percent"] = percent or _waits_at(deployment_id)
    result = call("dashboard", body, f"/api/deployments/{deployment_id}/{verb}/")
    if as_json:
        return print_json(result)
    at = f"at {result['traffic_percent']} % of the traffic"
    said = {"pause": "paused", "resume": "resumed", "approve": "approved", "skip": "skipped"}
    return console.print(f"{result['name']} of {result['model_id']}, {at}: {said[verb]}")


def _waits_at(deployment_id: str) -> int | None:
    """Return the share of traffic at which a rollout waits for a person; None where it does not."""
    found = wiring.state().deployment(deployment_id)
    return found.traffic_percent if found.holding_since else None


def _rollout(rollout: str | None) -> str:
    """Return the deployment's id: the one given, or the one that a model rolls out."""
    state = wiring.state()
    if rollout and state.declaration(rollout) is None:
        return rollout
    model_id = _model(rollout)
    lock = state.model(model_id).lock
    if lock is None or lock.kind is not LockKind.ROLLOUT:
        raise NotFound(f"{model_id!r} has no rollout under way; `turnout deployments` lists all")
    return lock.deployment_id


def _known_model(model_id: str) -> None:
    if wiring.state().declaration(model_id) is None:
        raise NotFound(f"there is no model {model_id!r}")


def _percents(text: str) -> list[int]:
    try:
        return [int(part.strip(" %")) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InvalidRequest(f"--steps looks like 10,50,100, got {text!r}") from None


def _version(text: str) -> int:
    digits = text.removeprefix("v")
    if not digits.isdigit():
        raise InvalidRequest(f"--to looks like v2, got {text!r}")
    return int(digits)


def _decoded(text: str, file: Path) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"{file} is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise InvalidRequest(f"{file} must hold one JSON object")
    return message


def _person() -> str:
    return os.environ.get("TURNOUT_USER") or os.environ.get("USER") or "command line"


def _key_state(key: dict[str, Any]) -> str:
    if not key["is_active"]:
        return "revoked"
    expires_at = key["expires_at"]
    if expires_at and expires_at <= datetime.now(UTC):
        return "expired"
    return f"active until {moment(expires_at)}" if expires_at else "active"


def _answer(result: dict[str, Any], as_json: bool, sentence: str) -> None:
    if as_json:
        print_json(result)
    else:
        console.print(sentence.format(**result))
