"""A service's writable half: which fields, how a mask picks them, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.cloud import run_v2
from google.protobuf import field_mask_pb2

from localcloud.run import template as templates
from localcloud.run import traffic
from localcloud.run.errors import InvalidArgument, Unsupported
from localcloud.run.messages import Service

WRITABLE = (
    "description",
    "labels",
    "annotations",
    "client",
    "client_version",
    "ingress",
    "launch_stage",
    "template",
    "traffic",
    "scaling",
    "invoker_iam_disabled",
    "custom_audiences",
)
UNSUPPORTED = (
    "binary_authorization",
    "default_uri_disabled",
    "iap_enabled",
    "multi_region_settings",
    "threat_detection_enabled",
    "build_config",
)
_ALL_INGRESS = int(run_v2.IngressTraffic.INGRESS_TRAFFIC_ALL)
_AUTOMATIC = int(run_v2.ServiceScaling.ScalingMode.AUTOMATIC)


def merged(current: Any, given: Any, paths: Sequence[str]) -> Any:
    """Return `current` with the masked fields of `given`; without a mask, with all of them.

    A masked field that `given` leaves out is cleared; so is, without a mask, every field.
    """
    result = Service()
    result.CopyFrom(current)
    mask = field_mask_pb2.FieldMask(paths=list(paths))
    if not paths or list(paths) == ["*"]:
        mask = field_mask_pb2.FieldMask(paths=WRITABLE)
    for path in mask.paths:
        _check_path(path)
    try:
        mask.MergeMessage(given, result, replace_message_field=True, replace_repeated_field=True)
    except (KeyError, ValueError) as error:
        raise InvalidArgument(f"update_mask: {error}") from error
    return result


def _check_path(path: str) -> None:
    descriptor = Service.DESCRIPTOR
    first = path.split(".")[0]
    if first in UNSUPPORTED:
        raise Unsupported(f"service.{first}")
    if first not in WRITABLE:
        raise InvalidArgument(f"update_mask: {path!r} is not a writable field of Service")
    for step in path.split("."):
        if descriptor is None or step not in descriptor.fields_by_name:
            raise InvalidArgument(f"update_mask: Service has no field {path!r}")
        descriptor = descriptor.fields_by_name[step].message_type


def completed(service: Any) -> Any:
    """Return the service with Cloud Run's defaults filled in."""
    full = Service()
    full.CopyFrom(service)
    full.template.CopyFrom(templates.completed(service.template))
    targets = traffic.completed(service.traffic)
    del full.traffic[:]
    full.traffic.extend(targets)
    full.ingress = full.ingress or _ALL_INGRESS
    return full


def refuse_unsupported(given: Any, paths: Sequence[str]) -> None:
    """Raise Unsupported for a field of the request that would be taken and ignored.

    Under a mask only its fields count: whatever else the message carries is not written.
    """
    templates.refuse_unknown_fields(given, "service")
    if not paths or list(paths) == ["*"]:
        templates.refuse_set_fields(given, UNSUPPORTED, "service.")


def check(service_id: str, service: Any) -> None:
    """Raise unless the completed service can be run here."""
    templates.check_annotations(service.annotations, "service annotation")
    templates.check_annotations(service.labels, "service label")
    if service.ingress != _ALL_INGRESS:
        raise Unsupported(f"service.ingress {run_v2.IngressTraffic(service.ingress).name}")
    if service.scaling.scaling_mode not in (0, _AUTOMATIC):
        raise Unsupported("service.scaling.scaling_mode MANUAL")
    if service.scaling.manual_instance_count:
        raise Unsupported("service.scaling.manual_instance_count")
    if service.scaling.min_instance_count < 0 or service.scaling.max_instance_count < 0:
        raise InvalidArgument("service.scaling counts must not be negative")
    templates.check(service_id, service.template)
    traffic.check_targets(service_id, service.traffic)
