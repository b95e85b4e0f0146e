"""Resource names and the rules that Cloud Run has for their parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from localcloud.run.errors import InvalidArgument, NotFound

SERVICE_ID_LENGTH = 49
JOB_ID_LENGTH = 49
REVISION_NAME_LENGTH = 63
TAG_MIN_LENGTH = 3
TAG_AND_SERVICE_LENGTH = 46

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_TAG = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True)
class Location:
    """The one project and region that this local cloud is."""

    project: str
    region: str

    @property
    def name(self) -> str:
        return f"projects/{self.project}/locations/{self.region}"

    def service(self, service_id: str) -> str:
        return f"{self.name}/services/{service_id}"

    def revision(self, service_id: str, revision_id: str) -> str:
        return f"{self.service(service_id)}/revisions/{revision_id}"

    def job(self, job_id: str) -> str:
        return f"{self.name}/jobs/{job_id}"

    def execution(self, job_id: str, execution_id: str) -> str:
        return f"{self.job(job_id)}/executions/{execution_id}"

    def operation(self, operation_id: str) -> str:
        return f"{self.name}/operations/{operation_id}"

    def check_parent(self, parent: str) -> None:
        """Raise NotFound unless `parent` is this location."""
        if parent != self.name:
            raise NotFound(f"{parent} (this local cloud is {self.name})")

    def service_id(self, name: str) -> str:
        """Return the id in a service's full name."""
        return self._parts(name, "services")[0]

    def service_ids(self, parent: str) -> str | None:
        """Return the service of a revisions' parent, None for `services/-` (all of them)."""
        return _all_if_dash(self._parts(parent, "services")[0])

    def revision_ids(self, name: str) -> tuple[str, str]:
        """Return (service id, revision id) of a revision's full name."""
        service, revision = self._parts(name, "services", "revisions")
        return service, revision

    def job_id(self, name: str) -> str:
        """Return the id in a job's full name."""
        return self._parts(name, "jobs")[0]

    def job_ids(self, parent: str) -> str | None:
        """Return the job of an executions' parent, None for `jobs/-` (all of them)."""
        return _all_if_dash(self._parts(parent, "jobs")[0])

    def execution_ids(self, name: str) -> tuple[str, str]:
        """Return (job id, execution id) of an execution's full name."""
        job, execution = self._parts(name, "jobs", "executions")
        return job, execution

    def executions_ids(self, parent: str) -> tuple[str | None, str | None]:
        """Return (job, execution) of a tasks' parent, None for a `-` (all of them)."""
        job, execution = self._parts(parent, "jobs", "executions")
        return _all_if_dash(job), _all_if_dash(execution)

    def task_ids(self, name: str) -> tuple[str, str, str]:
        """Return (job id, execution id, task id) of a task's full name."""
        job, execution, task = self._parts(name, "jobs", "executions", "tasks")
        return job, execution, task

    def _parts(self, name: str, *collections: str) -> list[str]:
        pieces = name.split("/")
        wanted = 4 + 2 * len(collections)
        if len(pieces) != wanted or tuple(pieces[4::2]) != collections or "" in pieces:
            form = "/".join(f"{collection}/…" for collection in collections)
            raise InvalidArgument(f"{name!r} is not of the form {self.name}/{form}")
        self.check_parent("/".join(pieces[:4]))
        return pieces[5::2]


def _all_if_dash(part: str) -> str | None:
    return None if part == "-" else part


def check_service_id(service_id: str) -> None:
    """Raise InvalidArgument unless `service_id` may name a service."""
    _check_id("service_id", service_id, SERVICE_ID_LENGTH)


def check_job_id(job_id: str) -> None:
    """Raise InvalidArgument unless `job_id` may name a job."""
    _check_id("job_id", job_id, JOB_ID_LENGTH)


def _check_id(field: str, given: str, length: int) -> None:
    if not _LABEL.fullmatch(given) or len(given) > length:
        raise InvalidArgument(
            f"{field} {given!r}: use lower case letters, digits and hyphens, begin with a "
            f"letter, do not end with a hyphen, at most {length} characters"
        )


def check_revision_name(service_id: str, name: str) -> None:
    """Raise InvalidArgument unless `name` may name a revision of the service."""
    prefix = f"{service_id}-"
    if not name.startswith(prefix):
        raise InvalidArgument(f"template.revision {name!r} must begin with {prefix!r}")
    if not _LABEL.fullmatch(name) or len(name) > REVISION_NAME_LENGTH:
        raise InvalidArgument(
            f"template.revision {name!r}: use lower case letters, digits and hyphens, do not end "
            f"with a hyphen, at most {REVISION_NAME_LENGTH} characters"
        )


def check_tag(service_id: str, tag: str) -> None:
    """Raise InvalidArgument unless `tag` may be a traffic tag of the service."""
    if not _TAG.fullmatch(tag) or len(tag) < TAG_MIN_LENGTH:
        raise InvalidArgument(
            f"traffic tag {tag!r}: use lower case letters, digits and hyphens, at least "
            f"{TAG_MIN_LENGTH} characters"
        )
    if len(tag) + len(service_id) > TAG_AND_SERVICE_LENGTH:
        raise InvalidArgument(
            f"traffic tag {tag!r} and service name {service_id!r} together have "
            f"{len(tag) + len(service_id)} characters; at most {TAG_AND_SERVICE_LENGTH}"
        )
