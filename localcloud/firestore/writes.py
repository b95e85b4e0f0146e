"""One write of a commit: checked first, then applied to the document it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from localcloud.firestore import fields, names, values
from localcloud.firestore.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from localcloud.firestore.messages import VERIFY_FIELD, Document, microseconds
from localcloud.firestore.transforms import apply_transform, check_transform

MAX_DOCUMENT_BYTES = 1_048_576
MAX_TRANSFORMS = 500
_DOCUMENT_OVERHEAD_BYTES = 32


@dataclass(frozen=True)
class CheckedWrite:
    """A write that is well formed; whether it may happen depends on the stored document.

    `content` (fields by name) None deletes or, with `is_verify`, only checks. `mask` None
    replaces all fields.
    """

    name: names.DocumentName
    content: Any | None
    mask: tuple[fields.Path, ...] | None = None
    transforms: Sequence[Any] = field(default_factory=tuple)
    exists: bool | None = None
    update_us: int | None = None
    is_verify: bool = False

    def check_precondition(self, current: Any | None) -> None:
        """Raise what the real service answers when `current` is not as the write demands."""
        if self.exists is True and current is None:
            raise NotFound(f"no document to update: {self.name.full}")
        if self.exists is False and current is not None:
            raise AlreadyExists(f"document already exists: {self.name.full}")
        if self.update_us is None:
            return
        stored_us = 0 if current is None else microseconds(current.update_time)
        if stored_us != self.update_us:
            raise FailedPrecondition(
                f"the stored version ({stored_us}) of {self.name.full} does not match "
                f"the required base version ({self.update_us})"
            )

    def apply(self, current: Any | None, commit_us: int) -> tuple[Any | None, list[Any]]:
        """Return the document after the write (None: absent) and the transforms' results.

        Times are the caller's to set. InvalidArgument when the result is too large.
        """
        if self.is_verify:
            return current, []
        if self.content is None:
            return None, []
        changed = Document(name=self.name.full)
        if current is not None and self.mask is not None:
            changed.CopyFrom(current)
        elif current is not None:
            changed.create_time.CopyFrom(current.create_time)
            changed.update_time.CopyFrom(current.update_time)
        self._update_fields(changed.fields)
        results = [apply_transform(changed.fields, step, commit_us) for step in self.transforms]
        self._check_size(changed)
        return changed, results

    def _update_fields(self, target: Any) -> None:
        if self.mask is None:
            for name, value in (self.content or {}).items():
                target[name].CopyFrom(value)
            return
        for path in self.mask:
            value = fields.lookup(self.content, path)
            if value is None:
                fields.remove(target, path)
            else:
                fields.put(target, path, value)

    def _check_size(self, document: Any) -> None:
        size = self.name.size + values.fields_size(document.fields) + _DOCUMENT_OVERHEAD_BYTES
        if size > MAX_DOCUMENT_BYTES:
            raise InvalidArgument(
                f'document "{self.name.full}" cannot be written because its size ({size:,} bytes) '
                f"exceeds the maximum allowed size of {MAX_DOCUMENT_BYTES:,} bytes"
            )


def check_writes(messages: Sequence[Any], database: str) -> list[CheckedWrite]:
    """Return the checked writes of one commit; InvalidArgument when one can never succeed."""
    checked = [check_write(message, database) for message in messages]
    transforms: dict[str, int] = {}
    for write in checked:
        count = transforms.get(write.name.full, 0) + len(write.transforms)
        transforms[write.name.full] = count
        if count > MAX_TRANSFORMS:
            raise InvalidArgument(
                f"more than {MAX_TRANSFORMS} field transforms on {write.name.full} in one commit"
            )
    return checked


def check_write(message: Any, database: str | None = None) -> CheckedWrite:
    """Return one checked write. Timestamps inside it are cut to microseconds in place."""
    operation = message.WhichOneof("operation")
    condition = _precondition(message)
    if operation == "update":
        return _check_update(message, database, condition)
    if operation == "transform":
        _refuse(message, "a transform", "update_mask", "update_transforms")
        if not message.transform.field_transforms:
            raise InvalidArgument("the list of field transforms must not be empty")
        return CheckedWrite(
            name=names.document_name(message.transform.document, database),
            content={},
            mask=(),
            transforms=_checked_transforms(message.transform.field_transforms),
            **condition,
        )
    verified = _verified_name(message) if operation is None else None
    if operation is None and verified is None:
        raise InvalidArgument("empty write operation")
    _refuse(message, "a delete or verify", "update_mask", "update_transforms")
    name = names.document_name(verified or message.delete, database)
    return CheckedWrite(name=name, content=None, is_verify=verified is not None, **condition)


def _check_update(message: Any, database: str | None, condition: Any) -> CheckedWrite:
    name = names.document_name(message.update.name, database)
    values.check_fields(message.update.fields)
    mask = None
    if message.HasField("update_mask"):
        mask = tuple(fields.parse_writable_path(path) for path in message.update_mask.field_paths)
    return CheckedWrite(
        name=name,
        content=message.update.fields,
        mask=mask,
        transforms=_checked_transforms(message.update_transforms),
        **condition,
    )


def _precondition(message: Any) -> dict[str, Any]:
    which = message.current_document.WhichOneof("condition_type")
    if which == "exists":
        return {"exists": message.current_document.exists}
    if which == "update_time":
        return {"update_us": microseconds(message.current_document.update_time)}
    return {}


def _checked_transforms(messages: Any) -> list[Any]:
    for message in messages:
        check_transform(message)
    return list(messages)


def _refuse(message: Any, operation: str, *names_of_fields: str) -> None:
    for name in names_of_fields:
        is_set = (
            len(message.update_transforms)
            if name == "update_transforms"
            else (message.HasField(name))
        )
        if is_set:
            raise InvalidArgument(f"{operation} must not specify {name}")


def _verified_name(message: Any) -> str | None:
    for raw in UnknownFieldSet(message):  # type: ignore[attr-defined]
        if raw.field_number == VERIFY_FIELD and isinstance(raw.data, bytes):
            return raw.data.decode()
    return None
