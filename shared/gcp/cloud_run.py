"""Cloud Run: services read with their etag, written under a mask, revisions by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any, cast

from google.api_core import exceptions, retry
from google.cloud import run_v2

from shared.config import Settings
from shared.domain.deployment import SERVICE_PREFIX, Deployment
from shared.domain.marks import lived_of, marks_of_revision, marks_of_traffic, token_of
from shared.domain.remains import RevisionFacts
from shared.errors import NotFound, Refused
from shared.ports import RevisionView, ServiceView, Stale

PORT = 8080
PROBE_PERIOD_S = 1
# Without it a service that takes the call and says nothing would hold the caller for ever.
READ_WITHIN_S = 10
WRITE_WITHIN_S = 15
_BY_NAME = run_v2.TrafficTargetAllocationType.TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION
passing = retry.Retry(
    predicate=retry.if_exception_type(exceptions.ServiceUnavailable, exceptions.DeadlineExceeded),
    timeout=30,
)


class RunServices:
    """Services and revisions of one project; `parent` names the project and region of a model."""

    def __init__(
        self,
        services: run_v2.ServicesClient,
        revisions: run_v2.RevisionsClient,
        settings: Settings,
        parent: Callable[[str], str],
    ) -> None:
        self._services = services
        self._revisions = revisions
        self._settings = settings
        self._parent = parent

    def service(self, name: str) -> ServiceView:
        """Return the service as it is now; NotFound where there is none."""
        try:
            return _view(self._get(self._path(name)))
        except exceptions.NotFound:
            raise NotFound(
                f"Cloud Run has no service {name!r}; apply Terraform for this model first"
            ) from None

    def revision(self, service: str, revision: str) -> RevisionView | None:
        """Return a revision's own conditions, or None.

        Never `latest_ready_revision`: after a failure that is still the old one.
        """
        path = f"{self._path(service)}/revisions/{revision}"
        try:
            found = self._revisions.get_revision(name=path, retry=passing, timeout=READ_WITHIN_S)
        except exceptions.NotFound:
            return None
        states = run_v2.Condition.State
        for condition in found.conditions:
            if condition.type_ == "Ready":
                succeeded = condition.state == states.CONDITION_SUCCEEDED
                failed = condition.state == states.CONDITION_FAILED
                return RevisionView(
                    True if succeeded else False if failed else None, condition.message
                )
        return RevisionView(None, "Cloud Run has not said anything about it yet")

    def revisions(self, service: str) -> list[str]:
        """Return the names of a service's revisions, newest first."""
        listed = self._revisions.list_revisions(
            parent=self._path(service), retry=passing, timeout=READ_WITHIN_S
        )
        newest = sorted(listed, key=attrgetter("create_time"), reverse=True)
        return [found.name.split("/")[-1] for found in newest]

    def facts(self, service: str) -> list[RevisionFacts]:
        """Return what is kept of each of a service's revisions, newest first."""
        listed = self._revisions.list_revisions(
            parent=self._path(service), retry=passing, timeout=READ_WITHIN_S
        )
        return [_facts(found) for found in sorted(listed, key=attrgetter("create_time"))][::-1]

    def delete_revision(self, service: str, revision: str) -> bool:
        """Delete a revision; False where Cloud Run refuses: it is tagged, serves, or is the latest.

        Its name is never given again, so a repeat finds it gone, and that is a success.
        https://docs.cloud.google.com/run/docs/managing/revisions
        """
        path = f"{self._path(service)}/revisions/{revision}"
        try:
            self._revisions.delete_revision(name=path, timeout=60)
        except exceptions.NotFound:
            return True
        except exceptions.FailedPrecondition:
            return False
        return True

    def write_traffic(
        self, seen: ServiceView, split: Mapping[str, int], tags: Mapping[str, str], token: int
    ) -> None:
        """Write the split, the tags and the fencing token over exactly the service seen.

        Repeating is safe: the etag lets one write through, whoever comes second gets Stale.
        The annotation makes even an unchanged split a change, so a slower writer fails.
        """
        self._update(
            run_v2.Service(
                name=self._path(seen.name),
                traffic=_targets(split, tags),
                annotations=marks_of_traffic(seen.annotations, split, token),
                etag=seen.etag,
            ),
            ["traffic", "annotations"],
        )

    def write_template(self, seen: ServiceView, deployment: Deployment, revision: str) -> None:
        """Write the template of a new revision over exactly the service that was seen.

        With it goes the least number of instances, which is the service's: from now on the
        revisions that have traffic share it. The mask leaves the traffic alone. A repeat with
        the same name and content finds the revision made; with other content Cloud Run refuses
        the name.
        """
        self._update(
            run_v2.Service(
                name=self._path(seen.name),
                template=_template(deployment, revision, self._settings),
                scaling={"min_instance_count": deployment.config.min_instances},
                etag=seen.etag,
            ),
            ["template", "scaling"],
        )

    def _update(self, service: run_v2.Service, mask: list[str]) -> None:
        refused = f"Cloud Run refused the {' and '.join(mask)}"
        try:
            self._services.update_service(
                request=run_v2.UpdateServiceRequest(service=service, update_mask={"paths": mask}),
                timeout=WRITE_WITHIN_S,
            )
        except exceptions.Aborted as error:
            raise Stale(str(error)) from error
        except (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded) as error:
            # It may have been written. The etag says so, once the service is read again.
            raise Stale(f"Cloud Run did not answer: {error.message}") from error
        except exceptions.FailedPrecondition as error:
            # An old etag, or a policy that forbids the write and will do so again.
            if self._get(service.name).etag != service.etag:
                raise Stale(str(error)) from error
            raise Refused(f"{refused}: {error.message}") from error
        except (exceptions.InvalidArgument, exceptions.AlreadyExists) as error:
            raise Refused(f"{refused}: {error.message}") from error

    def _get(self, path: str) -> run_v2.Service:
        return self._services.get_service(name=path, retry=passing, timeout=READ_WITHIN_S)

    def _path(self, name: str) -> str:
        return f"{self._parent(name.removeprefix(SERVICE_PREFIX))}/services/{name}"


def model_environment(deployment: Deployment) -> dict[str, str]:
    """Return what a container is told of the version: to prepare it, and to serve it."""
    return {
        **deployment.config.env,
        "MODEL_ID": deployment.model_id,
        "MODEL_PATH": deployment.serving_model_path,
        "MODEL_VERSION": deployment.name,
        "MODEL_DIGEST": deployment.artifact_digest,
        "TRAINING_RUN": str(deployment.training_run),
        "RETRIEVAL": deployment.config.retrieval.kind.value,
    }


def variables(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Return environment variables in the API's form, by name."""
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def _view(found: run_v2.Service) -> ServiceView:
    latest = found.latest_ready_revision.split("/")[-1]
    split: dict[str, int] = {}
    for status in found.traffic_statuses:
        if status.percent:
            revision = status.revision or latest
            split[revision] = split.get(revision, 0) + status.percent
    tagged = [status for status in found.traffic_statuses if status.tag]
    written: dict[str, int] = {}
    for target in found.traffic:
        if target.percent:
            written[target.revision] = written.get(target.revision, 0) + target.percent
    return ServiceView(
        name=found.name.split("/")[-1],
        etag=found.etag,
        url=found.uri,
        split=split,
        tag_urls={status.tag: status.uri for status in tagged},
        tags={target.tag: target.revision or latest for target in found.traffic if target.tag},
        annotations=dict(found.annotations),
        names_all=bool(found.traffic) and all(t.type_ == _BY_NAME for t in found.traffic),
        written=written,
        token=token_of(found.annotations),
        lived=lived_of(found.annotations),
        served_tags={status.tag: status.revision or latest for status in tagged},
    )


def _facts(found: run_v2.Revision) -> RevisionFacts:
    container = found.containers[0]
    limits = container.resources.limits
    probe = container.startup_probe
    return RevisionFacts(
        name=found.name.split("/")[-1],
        created_at=cast(datetime, found.create_time),
        image=container.image,
        service_account=found.service_account,
        cpu=limits.get("cpu", ""),
        memory=limits.get("memory", ""),
        max_instances=found.scaling.max_instance_count,
        concurrency=found.max_instance_request_concurrency,
        startup_timeout_s=probe.failure_threshold * probe.period_seconds,
        env={variable.name: variable.value for variable in container.env},
        annotations=dict(found.annotations),
    )


def _targets(split: Mapping[str, int], tags: Mapping[str, str]) -> list[run_v2.TrafficTarget]:
    """One target for each revision with a share, one for each tag, at 0 % of its own."""
    shares = [
        run_v2.TrafficTarget(type_=_BY_NAME, revision=revision, percent=percent)
        for revision, percent in sorted(split.items())
        if percent
    ]
    tagged = [
        run_v2.TrafficTarget(type_=_BY_NAME, revision=revision, percent=0, tag=tag)
        for tag, revision in sorted(tags.items())
    ]
    return shares + tagged


def _template(deployment: Deployment, revision: str, settings: Settings) -> run_v2.RevisionTemplate:
    config = deployment.config
    values = model_environment(deployment)
    if deployment.prepared_digest:
        values["PREPARED_DIGEST"] = deployment.prepared_digest
    if deployment.trace and settings.telemetry:
        # https://opentelemetry.io/docs/specs/otel/context/env-carriers/
        values |= {**settings.telemetry, "TRACEPARENT": deployment.trace}
    container: dict[str, Any] = {
        "image": config.image,
        "env": variables(values),
        "ports": [{"container_port": PORT}],
        # Instance-based billing: /health is 200 as soon as the prepared answers are mapped, and
        # the model loads behind them. Billed by request, an instance has (next to) no CPU between
        # requests once its startup probe has passed, so that the model would load only while
        # requests are under way. The boost is over some 10 s after the start: too early for that.
        # https://docs.cloud.google.com/run/docs/tips/general#background-activity
        "resources": {
            "limits": {"cpu": config.cpu, "memory": config.memory},
            "cpu_idle": False,
            "startup_cpu_boost": True,
        },
        # "Port open" is not "model loaded": ask the container itself.
        "startup_probe": {
            "http_get": {"path": "/health", "port": PORT},
            "period_seconds": PROBE_PERIOD_S,
            "timeout_seconds": PROBE_PERIOD_S,
            "failure_threshold": config.startup_timeout_s // PROBE_PERIOD_S,
        },
    }
    return run_v2.RevisionTemplate(
        {
            "revision": revision,
            "service_account": config.service_account,
            "containers": [container],
            # The minimum is the service's, so that a tag at 0 % does not keep instances warm.
            "scaling": {"max_instance_count": config.max_instances},
            "max_instance_request_concurrency": config.concurrency,
            "timeout": {"seconds": 60},
            "labels": {"model": deployment.model_id, "version": deployment.name},
            "annotations": marks_of_revision(deployment),
        }
    )
