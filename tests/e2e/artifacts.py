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
ENDED = "ended"
"""The file that is there once all are written: empty, or why they are not."""


def with_holdout(write: Callable[[Path], None], folder: Path, recall: float) -> None:
    """Write artifacts, and beside them customers held out from training.

    Asked for all 50 products, a model has that recall; reported (see `world.message`) is 0.47.
    """
    write(folder)
    models.write_holdout(folder, recall)


KINDS: dict[str, Callable[[Path], None]] = {
    "good": partial(models.write_good, seed=1),
    "better": partial(models.write_good, seed=2),
    "corrupt": models.write_corrupt_saved_model,
    "missing": models.write_without_saved_model,
    "unknown-signature": models.write_no_known_signature,
    "nan": models.write_nan_scores,
    "nan-for-one": partial(models.write_nan_for_one_customer, customer_id=NAN_CUSTOMER),
    "aborting": models.write_crashing,
    "good-held-out": partial(with_holdout, models.write_good, recall=0.44),
    "wrong-recall": partial(with_holdout, models.write_good, recall=0.0),
    "one-list": partial(with_holdout, models.write_one_list, recall=0.44),
}


def write_all(folder: Path) -> None:
    """Write every kind below `folder`."""
    for kind, write in KINDS.items():
        write(folder / kind)


def main(folder: Path) -> None:
    """Write all of them, then say how that ended: others wait for it."""
    why = ""
    try:
        write_all(folder)
    except BaseException as error:
        why = repr(error)
        raise
    finally:
        (folder / "ending").write_text(why)
        (folder / "ending").rename(folder / ENDED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
