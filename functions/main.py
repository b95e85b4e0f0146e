"""The bundle's root: every entry point by the name that it is deployed under."""

from functions.abort_deployment import abort_deployment
from functions.cancel import cancel
from functions.check_health import check_health
from functions.claim_deployment import claim_deployment
from functions.collect_metrics import collect_metrics
from functions.copy_artifacts import copy_artifacts
from functions.create_revision import create_revision
from functions.dashboard.entry import dashboard
from functions.finish_deployment import finish_deployment
from functions.judge_canary import judge_canary
from functions.on_deployment_event import on_deployment_event
from functions.on_training_completed import on_training_completed
from functions.prepare_model import prepare_model
from functions.reconcile import reconcile
from functions.roll_back import roll_back
from functions.shift_traffic import shift_traffic

__all__ = [
    "abort_deployment",
    "cancel",
    "check_health",
    "claim_deployment",
    "collect_metrics",
    "copy_artifacts",
    "create_revision",
    "dashboard",
    "finish_deployment",
    "judge_canary",
    "on_deployment_event",
    "on_training_completed",
    "prepare_model",
    "reconcile",
    "roll_back",
    "shift_traffic",
]
