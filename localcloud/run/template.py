"""A revision's template: what is refused, what is filled in, as Cloud Run does it."""

from __future__ import annotations

import re
from typing import Any

from google.cloud import run_v2
from google.protobuf.unknown_fields import UnknownFieldSet

from localcloud.run.errors import InvalidArgument, Unsupported
from localcloud.run.names import check_revision_name

DEFAULT_CONCURRENCY = 80
MAX_CONCURRENCY = 1000
DEFAULT_TIMEOUT_S = 300
MAX_TIMEOUT_S = 3600
DEFAULT_PORT = 8080
DEFAULT_STARTUP_S = 240
MAX_STARTUP_S = 240

RESERVED_ENVIRONMENT = frozenset({"PORT", "K_SERVICE", "K_REVISION", "K_CONFIGURATION"})
RESERVED_PREFIXES = (
    "run.googleapis.com/",
    "cloud.googleapis.com/",
    "serving.knative.dev/",
    "autoscaling.knative.dev/",
)

_UNSUPPORTED_IN_TEMPLATE = (
    "vpc_access",
    "volumes",
    "encryption_key",
    "service_mesh",
    "encryption_key_revocation_action",
    "encryption_key_shutdown_duration",
    "session_affinity",
    "health_check_disabled",
    "node_selector",
    "gpu_zonal_redundancy_disabled",
)
UNSUPPORTED_IN_CONTAINER = (
    "source_code",
    "volume_mounts",
    "liveness_probe",
    "readiness_probe",
    "depends_on",
    "base_image_uri",
    "build_info",
)
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_UNITS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}


def quantity(text: str) -> float:
    """Return a Kubernetes quantity as a number: "2" and "2000m" are 2.0, "1Ki" is 1024.0."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"{text!r} is not a quantity such as 2, 500m, 512Mi or 4Gi")
    return float(match[1]) * _UNITS[match[2] or ""]


def refuse_set_fields(message: Any, names: tuple[str, ...], where: str) -> None:
    """Raise Unsupported for the first of `names` that the message sets."""
    given = {field.name for field, _ in message.ListFields()}
    for name in names:
        if name in given:
            raise Unsupported(f"{where}{name}")


def refuse_unknown_fields(message: Any, where: str) -> None:
    """Raise Unsupported when the message carries fields newer than the installed types."""
    unknown = UnknownFieldSet(message)
    if len(unknown):
        raise Unsupported(f"{where}: field number {unknown[0].field_number}")
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for item in value if field.is_repeated else [value]:
            refuse_unknown_fields(item, f"{where}.{field.name}")


def check_annotations(annotations: Any, where: str) -> None:
    """Raise InvalidArgument for keys in the namespaces that API v2 rejects."""
    for key in annotations:
        if key.startswith(RESERVED_PREFIXES):
            raise InvalidArgument(
                f"{where} {key!r}: keys beginning with {key.split('/')[0]}/ are reserved; use the "
                "field of the API instead"
            )


def completed(template: Any) -> Any:
    """Return a copy of the template with Cloud Run's defaults filled in.

    The defaults are part of what the service shows, so that a template read and written back
    is the same configuration.
    """
    full = type(template)()
    full.CopyFrom(template)
    full.max_instance_request_concurrency = (
        full.max_instance_request_concurrency or DEFAULT_CONCURRENCY
    )
    if not full.HasField("timeout"):
        full.timeout.seconds = DEFAULT_TIMEOUT_S
    for container in full.containers:
        _complete_container(container)
    return full


def complete_limits(container: Any) -> None:
    """Fill in the CPU and memory that Cloud Run gives a container that names none."""
    container.resources.limits.setdefault("cpu", "1000m")
    container.resources.limits.setdefault("memory", "512Mi")


def _complete_container(container: Any) -> None:
    if not container.HasField("resources"):
        container.resources.cpu_idle = True
    complete_limits(container)
    if not container.ports:
        container.ports.add(name="http1", container_port=DEFAULT_PORT)
    for port in container.ports:
        port.name = port.name or "http1"
    port_number = container.ports[0].container_port
    if not container.HasField("startup_probe"):
        container.startup_probe.timeout_seconds = DEFAULT_STARTUP_S
        container.startup_probe.period_seconds = DEFAULT_STARTUP_S
        container.startup_probe.failure_threshold = 1
        container.startup_probe.tcp_socket.port = port_number
        return
    probe = container.startup_probe
    probe.timeout_seconds = probe.timeout_seconds or 1
    probe.period_seconds = probe.period_seconds or 10
    probe.failure_threshold = probe.failure_threshold or 3
    if probe.HasField("http_get"):
        probe.http_get.path = probe.http_get.path or "/"
        probe.http_get.port = probe.http_get.port or port_number
    elif not probe.HasField("grpc"):
        probe.tcp_socket.port = probe.tcp_socket.port or port_number


def check(service_id: str, template: Any) -> None:
    """Raise InvalidArgument or Unsupported unless the completed template can be run here."""
    if template.revision:
        check_revision_name(service_id, template.revision)
    check_annotations(template.annotations, "template annotation")
    check_annotations(template.labels, "template label")
    refuse_set_fields(template, _UNSUPPORTED_IN_TEMPLATE, "template.")
    if not 1 <= template.max_instance_request_concurrency <= MAX_CONCURRENCY:
        raise InvalidArgument(
            f"max_instance_request_concurrency must be 1 to {MAX_CONCURRENCY}, got "
            f"{template.max_instance_request_concurrency}"
        )
    if not 0 < template.timeout.seconds <= MAX_TIMEOUT_S:
        raise InvalidArgument(f"template.timeout must be above 0 and at most {MAX_TIMEOUT_S} s")
    least, most = template.scaling.min_instance_count, template.scaling.max_instance_count
    if least < 0 or most < 0 or (most and least > most):
        raise InvalidArgument(f"template.scaling: min {least}, max {most} is not a range")
    container = only_container(template)
    refuse_set_fields(container, UNSUPPORTED_IN_CONTAINER, "container.")
    check_container(container, RESERVED_ENVIRONMENT)
    if len(container.ports) > 1:
        raise InvalidArgument("container.ports must hold one port")
    if container.ports[0].name != "http1":
        raise Unsupported(f"container.ports name {container.ports[0].name!r} (HTTP/2)", "use http1")
    if not 1 <= container.ports[0].container_port <= 65535:
        raise InvalidArgument("container.ports: container_port must be 1 to 65535")
    _check_startup_probe(container.startup_probe, container.ports[0].container_port)


def only_container(template: Any) -> Any:
    """Return the template's one container."""
    if not template.containers:
        raise InvalidArgument("template.containers must hold one container")
    if len(template.containers) > 1:
        raise Unsupported("more than one container (sidecars)")
    return template.containers[0]


def check_container(container: Any, reserved_environment: frozenset[str]) -> None:
    """Raise unless the image, the limits and the variables of a container can be had here."""
    if not container.image:
        raise InvalidArgument("container.image is required")
    for name, text in container.resources.limits.items():
        if name not in ("cpu", "memory"):
            raise Unsupported(f"container.resources.limits[{name!r}]")
        quantity(text)
    for variable in container.env:
        if variable.HasField("value_source"):
            raise Unsupported(f"container.env {variable.name!r}: value_source (secrets)")
    names = [variable.name for variable in container.env]
    if reserved := reserved_environment.intersection(names):
        raise InvalidArgument(
            f"The following reserved env names were provided: {', '.join(sorted(reserved))}. "
            "These values are automatically set by the system."
        )
    if twice := {name for name in names if names.count(name) > 1 or not name}:
        raise InvalidArgument(f"container.env names must be given once: {sorted(twice)}")


def _check_startup_probe(probe: Any, port: int) -> None:
    if probe.HasField("grpc"):
        raise Unsupported("startup_probe.grpc", "use http_get or tcp_socket")
    kind = "http_get" if probe.HasField("http_get") else "tcp_socket"
    if getattr(probe, kind).port != port:
        raise Unsupported(f"startup_probe.{kind}.port other than the container's port {port}")
    for name, least in (
        ("initial_delay_seconds", 0),
        ("timeout_seconds", 1),
        ("period_seconds", 1),
        ("failure_threshold", 1),
    ):
        if not least <= getattr(probe, name) <= MAX_STARTUP_S:
            raise InvalidArgument(f"startup_probe.{name} must be {least} to {MAX_STARTUP_S}")
    if probe.timeout_seconds > probe.period_seconds:
        raise InvalidArgument("startup_probe.timeout_seconds must not exceed period_seconds")
    if probe.failure_threshold * probe.period_seconds > MAX_STARTUP_S:
        raise InvalidArgument(
            f"startup_probe: failure_threshold x period_seconds must not exceed {MAX_STARTUP_S} s"
        )


def same_configuration(one: Any, other: Any) -> bool:
    """Tell whether two completed templates are equal apart from the revision's name."""
    return bool(_without_name(one) == _without_name(other))


def _without_name(template: Any) -> Any:
    bare = type(template)()
    bare.CopyFrom(template)
    bare.ClearField("revision")
    return bare


def revision_of(name: str, uid: str, service_id: str, generation: int, template: Any) -> Any:
    """Return the Revision resource that a completed template becomes."""
    revision = run_v2.Revision.pb()(
        name=name,
        uid=uid,
        service=service_id,
        generation=generation,
        labels=dict(template.labels),
        annotations=dict(template.annotations),
        service_account=template.service_account,
        containers=template.containers,
        execution_environment=template.execution_environment,
        max_instance_request_concurrency=template.max_instance_request_concurrency,
    )
    revision.scaling.CopyFrom(template.scaling)
    revision.timeout.CopyFrom(template.timeout)
    return revision
