"""A world with one declared model, and its deployments brought to any step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from functions.check_health import check
from functions.claim_deployment import take
from functions.copy_artifacts import copy
from functions.create_revision import create
from functions.finish_deployment import conclude
from functions.on_training_completed import receive
from functions.prepare_model import prepare
from functions.shift_traffic import move
from shared.domain.deployment import Deployment
from shared.domain.policy import Checking
from shared.domain.rollout import Strategy, plan_rollout
from shared.messages import (
    Canary,
    CheckHealth,
    ClaimDeployment,
    CopyArtifacts,
    CreateRevision,
    FinishDeployment,
    ModelDeclaration,
    Policy,
    PrepareModel,
    ShiftTraffic,
)
from tests.fakes import World

NOW = datetime(2026, 11, 24, 14, tzinfo=UTC)
MODEL, SERVICE = "movies", "model-serving-movies"
V0, V1, V2, V3 = (f"{SERVICE}-v{number}-1" for number in range(4))
STEPS = {
    "claim": (take, ClaimDeployment),
    "copy": (copy, CopyArtifacts),
    "prepare": (prepare, PrepareModel),
    "create": (create, CreateRevision),
    "check": (check, CheckHealth),
    "shift": (move, ShiftTraffic),
    "finish": (conclude, FinishDeployment),
}


def declaration(**fields: Any) -> ModelDeclaration:
    """A model that deploys what is better, at once; nobody judges its stages."""
    given = {
        "model_id": MODEL,
        "image": "serving",
        "service_account": "serving@turnout-test",
        "golden_customers": ("15", "73"),
        "policy": Policy(canary=Canary(judge=Checking.OFF)),
    }
    return ModelDeclaration.model_validate({**given, **fields})


def new_world(**fields: Any) -> World:
    """A world in which only the model is declared."""
    return World.of(declaration(**fields))


def deployment(**fields: Any) -> Deployment:
    """A deployment as `on_training_completed` makes it, with fields replaced."""
    given: dict[str, Any] = {
        "id": "movies-1-auto",
        "model_id": MODEL,
        "version": 1,
        "training_run": 1,
        "request_id": "auto",
        "artifact_uri": "gs://training/run-1",
        "config": declaration().config,
        "plan": plan_rollout(Strategy.IMMEDIATE, (), 0),
        "deployed_by": "training",
        "created_at": NOW,
    }
    return Deployment(**{**given, **fields})


def train(world: World, run: int) -> None:
    """Put a run's artifacts where training leaves them."""
    for name in ("saved_model/saved_model.pb", "saved_model/variables/data", "customers.txt"):
        world.objects.put("training", f"run-{run}/{name}", f"{name} of {run}".encode())


def message(run: int = 1, deploy: Mapping[str, Any] | None = None, **fields: Any) -> bytes:
    """A training-completed message; each run is a little better than the one before."""
    body = {
        "schema_version": 1,
        "model_id": MODEL,
        "run_number": run,
        "artifact_uri": f"gs://training/run-{run}",
        "metrics": {"recall_at_100": 0.4 + run / 100},
        "completed_at": "2026-11-24T14:00:00Z",
        **fields,
    }
    return json.dumps({**body, "deploy": deploy} if deploy else body).encode()


def publish(world: World, run: int = 1, **deploy: Any) -> str:
    """Train a run and deliver its message; return the deployment's id."""
    train(world, run)
    receive(message(run, deploy or None), f"message-{run}", world.ports())
    return f"{MODEL}-{run}-{deploy.get('request_id', 'auto')}"


def execution_of(world: World, deployment_id: str) -> str:
    """Return the first execution that was started for a deployment."""
    started = world.executions.deployments
    return next(name for name, started_for in started.items() if started_for == deployment_id)


def step(world: World, name: str, deployment_id: str, **fields: Any) -> dict[str, Any]:
    """Do one step as the deployment's first execution (or as the `execution` that is named)."""
    use_case, kind = STEPS[name]
    execution = fields.pop("execution", None) or execution_of(world, deployment_id)
    command = kind(deployment_id=deployment_id, execution=execution, **fields)
    done: dict[str, Any] = use_case(command, world.ports())  # type: ignore[operator]
    return done


def advance(world: World, deployment_id: str, until: str = "finish") -> None:
    """Do the steps from the first to (and with) `until`; `shift` goes to 100 percent."""
    for name in STEPS:
        step(world, name, deployment_id, **({"percent": 100} if name == "shift" else {}))
        if name == until:
            break
    if until == "finish":
        world.executions.end(execution_of(world, deployment_id), "SUCCEEDED")


def roll_out(world: World, run: int = 1) -> str:
    """Publish a run and bring it to active; return its deployment's id."""
    deployment_id = publish(world, run)
    advance(world, deployment_id)
    return deployment_id


def served(world: World) -> dict[str, int]:
    """The split that users meet."""
    return world.cloud_run.services[SERVICE].served
