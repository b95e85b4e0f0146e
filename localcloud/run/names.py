"""Resource names and the rules that Cloud Run has for their parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from localcloud.run.errors import InvalidArgument, NotFound

SERVICE_ID_LENGTH = 49
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
        found = self._parts(parent, "services")[0]
        return None if found == "-" else found

    def revision_ids(self, name: str) -> tuple[str, str]:
        """Return (service id, revision id) of a revision's full name."""
        service, revision = self._parts(name, "services", "revisions")
        return service, revision

    def _parts(self, name: str, *collections: str) -> list[str]:
        pieces = name.split("/")
        wanted = 4 + 2 * len(collections)
        if len(pieces) != wanted or tuple(pieces[4::2]) != collections or "" in pieces:
            form = "/".join(f"{collection}/…" for collection in collections)
            raise InvalidArgument(f"{name!r} is not of the form {self.name}/{form}")
        self.check_parent("/".join(pieces[:4]))
        return pieces[5::2]


def check_service_id(service_id: str) -> None:
    """Raise InvalidArgument unless `service_id` may name a service."""
    if not _LABEL.fullmatch(service_id) or len(service_id) > SERVICE_ID_LENGTH:
        raise InvalidArgument(
            f"service_id {service_id!r}: use lower case letters, digits and hyphens, begin with a "
            f"letter, do not end with a hyphen, at most {SERVICE_ID_LENGTH} characters"
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
