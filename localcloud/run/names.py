"""Resource names and the rules that Cloud Run has for their parts."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from localcloud.run.errors import InvalidArgument, NotFound, Unsupported

SERVICE_ID_LENGTH = 49
JOB_ID_LENGTH = 49
REVISION_NAME_LENGTH = 63
TAG_MIN_LENGTH = 3
TAG_AND_SERVICE_LENGTH = 46

_PARENT = re.compile(r"projects/([^/]+)/locations/([^/]+)")
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_TAG = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True)
class Names:
    """Reads the resource names of one project, in whatever region of it they are."""

    project: str

    def check_parent(self, parent: str) -> None:
        """Raise unless `parent` is a region of the project: NotFound for another project.

        InvalidArgument for what cannot be a region, `-` among it: no listing takes that.
        """
        match = _PARENT.fullmatch(parent)
        if match is None:
            raise InvalidArgument(f"{parent!r} is not of the form {self._form()}")
        project, region = match.groups()
        if project != self.project:
            raise NotFound(f"{parent} (this local cloud is projects/{self.project})")
        if not _REGION.fullmatch(region):
            raise InvalidArgument(f"{parent!r}: {region!r} is not a region")

    def service_id(self, name: str) -> str:
        """Return the id in a service's full name."""
        return self._parts(name, "services")[0]

    def service_ids(self, parent: str) -> str | None:
        """Return the service of a revisions' parent, None for `services/-` (all of them)."""
        return _all_if_dash(self._parts(parent, "services")[0])

    def revision_id(self, name: str) -> str:
        """Return the id in a revision's full name."""
        return self._parts(name, "services", "revisions")[1]

    def job_id(self, name: str) -> str:
        """Return the id in a job's full name."""
        return self._parts(name, "jobs")[0]

    def job_ids(self, parent: str) -> str | None:
        """Return the job of an executions' parent, None for `jobs/-` (all of them)."""
        return _all_if_dash(self._parts(parent, "jobs")[0])

    def execution_id(self, name: str) -> str:
        """Return the id in an execution's full name."""
        return self._parts(name, "jobs", "executions")[1]

    def executions_ids(self, parent: str) -> tuple[str | None, str | None]:
        """Return (job, execution) of a tasks' parent, None for a `-` (all of them)."""
        job, execution = self._parts(parent, "jobs", "executions")
        return _all_if_dash(job), _all_if_dash(execution)

    def task_ids(self, name: str) -> tuple[str, str]:
        """Return (execution id, task id) of a task's full name."""
        _, execution, task = self._parts(name, "jobs", "executions", "tasks")
        return execution, task

    def _parts(self, name: str, *collections: str) -> list[str]:
        pieces = name.split("/")
        wanted = 4 + 2 * len(collections)
        if len(pieces) != wanted or tuple(pieces[4::2]) != collections or "" in pieces:
            raise InvalidArgument(f"{name!r} is not of the form {self._form(*collections)}")
        self.check_parent(location_of(name))
        return pieces[5::2]

    def _form(self, *collections: str) -> str:
        return "/".join(
            (f"projects/{self.project}/locations/REGION", *(f"{each}/…" for each in collections))
        )


def location_of(name: str) -> str:
    """Return the `projects/P/locations/REGION` of a resource's full name."""
    return "/".join(name.split("/")[:4])


def region_of(name: str) -> str:
    """Return the region of a resource's full name."""
    return name.split("/")[3]


def new_operation_name(about: str) -> str:
    """Return the name of a new operation on the resource of this full name."""
    return f"{location_of(about)}/operations/{uuid.uuid4()}"


def refuse_second_region(taken: str, wanted: str) -> None:
    """Raise Unsupported if the id of the resource `taken` is `wanted` in another region.

    Everything is stored by id here, and logs and ports are found by it.
    """
    if location_of(taken) != location_of(wanted):
        raise Unsupported(f"an id in two regions ({wanted} beside {taken})")


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
