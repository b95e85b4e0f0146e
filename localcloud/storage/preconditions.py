"""The `if…Match` conditions of a request, decided without I/O."""

from __future__ import annotations

from dataclasses import dataclass

from localcloud.storage.errors import NotModified, PreconditionFailed
from localcloud.storage.parameters import Query


@dataclass(frozen=True)
class Preconditions:
    """Conditions on one object; None asks nothing, generation 0 means "there is none"."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None

    @classmethod
    def of(cls, query: Query, subject: str = "") -> Preconditions:
        """Take the conditions from the query; `subject` is "" or "Source"."""
        return cls(
            generation=query.integer(f"if{subject}GenerationMatch"),
            not_generation=query.integer(f"if{subject}GenerationNotMatch"),
            metageneration=query.integer(f"if{subject}MetagenerationMatch"),
            not_metageneration=query.integer(f"if{subject}MetagenerationNotMatch"),
        )

    def check(self, generation: int, metageneration: int, *, reading: bool = False) -> None:
        """Compare with an object (0, 0 when absent); PreconditionFailed, NotModified on reads."""
        if self.generation not in (None, generation):
            raise PreconditionFailed
        if self.metageneration not in (None, metageneration):
            raise PreconditionFailed
        # An absent object fulfils no "not match": there is nothing that could differ.
        absent = generation == 0 and (self.not_generation, self.not_metageneration) != (None, None)
        same = generation == self.not_generation or metageneration == self.not_metageneration
        if absent or same:
            raise NotModified if reading else PreconditionFailed
