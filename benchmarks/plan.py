"""What the serving benchmark measures: sizes, ways to ask, and how long."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contestants import LOOP, Contestant
from benchmarks.load import Shape

CUSTOMERS = 100_000
BATCH, FEW = 1_000, 100


@dataclass(frozen=True)
class Size:
    """A model's size; `prepared` bounds how many customers get prepared answers (and are asked)."""

    name: str
    products: int
    prepared: int | None = None

    @property
    def title(self) -> str:
        """Customers x products, as the results name it."""
        return f"100k x {self.name}"

    @property
    def is_huge(self) -> bool:
        """Whether the scores of a whole batch would weigh gigabytes in a single call."""
        return self.products > 500_000


SIZES = {
    size.name: size
    for size in (Size("10k", 10_000), Size("100k", 100_000), Size("1M", 1_000_000, 10_000))
}


@dataclass(frozen=True)
class Plan:
    """How often and how long; `batch_connections` send batches, 0 leaves them out.

    `demo` also compares all answers of the model that `make demo` deploys.
    """

    sizes: tuple[Size, ...]
    connections: tuple[int, ...]
    rounds: int
    seconds: float
    starts: int
    checked: int
    tune_s: float
    idle_s: float
    batch_connections: int = 4
    demo: bool = True

    def shapes(self, contestant: Contestant, size: Size) -> list[tuple[str, Shape]]:
        """Return the ways a contestant is asked at a size, each with its name in the results.

        Whoever is hopeless somewhere is asked for less there, as notes() says.
        """
        echo = not contestant.constant
        # A loop's time hardly depends on how many wait for it.
        wanted = self.connections
        if contestant.name == LOOP and size.products > 10_000 and len(wanted) > 1:
            wanted = (sorted(wanted)[len(wanted) // 2],)
        found = [(str(count), Shape(count, echo=echo)) for count in wanted]
        if self.batch_connections:
            connections = 1 if size.is_huge or contestant.slow else self.batch_connections
            few = contestant.slow or (size.is_huge and not _bounded(contestant))
            found.append(("batch", Shape(connections, FEW if few else BATCH, echo)))
        return found

    def notes(self) -> list[str]:
        """Return what is measured with less than the others, and why."""
        notes = [
            f"The loop is asked for batches of {FEW} from one connection: {BATCH} take it seconds."
        ]
        if len(self.connections) > 1 and any(size.products > 10_000 for size in self.sizes):
            notes.append("The loop is asked from one number of connections beyond 10k products.")
        if any(size.is_huge for size in self.sizes):
            notes.append(
                f"At 1M products batches come from one connection, and are {FEW} customers for "
                f"those that compute all scores at once ({BATCH} would be 4 GB); only the first "
                "10,000 customers have prepared answers, and everybody is asked for those."
            )
        return notes


def _bounded(contestant: Contestant) -> bool:
    """Return whether it keeps what one batch needs in bounds, or has no model at all."""
    return contestant.from_bucket or contestant.constant
