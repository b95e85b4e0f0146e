"""Training artifacts of every kind that the suite deploys, written once a session.

`python -m tests.e2e.artifacts FOLDER` writes `FOLDER/<kind>/` for each kind, in a process of
its own: importing TensorFlow takes seconds and some 500 MB that the test process can do without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests import models

NAN_CUSTOMER = "C-NAN"

KINDS: dict[str, Callable[[Path], None]] = {
    "good": partial(models.write_good, seed=1),
    "better": partial(models.write_good, seed=2),
    "corrupt": models.write_corrupt_saved_model,
    "missing": models.write_without_saved_model,
    "unknown-signature": models.write_no_known_signature,
    "nan": models.write_nan_scores,
    "nan-for-one": partial(models.write_nan_for_one_customer, customer_id=NAN_CUSTOMER),
    "aborting": models.write_crashing,
}


def write_all(folder: Path) -> None:
    """Write every kind below `folder`."""
    for kind, write in KINDS.items():
        write(folder / kind)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
