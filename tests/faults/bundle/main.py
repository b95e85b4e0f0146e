"""The functions' bundle as it is, behind doors at which calls can be made to fail.

Only its surroundings differ: see `tests.faults.marking`. And reconcile's patience is shortened so
that nobody waits two minutes.
"""

from __future__ import annotations

from functions import main as bundle
from functions import reconcile as reconciling
from tests.faults.marking import lead_to_the_doors, watched

if not hasattr(reconciling, "UNCLAIMED_AFTER_S"):
    raise AttributeError("functions/reconcile.py has no UNCLAIMED_AFTER_S to shorten")
reconciling.UNCLAIMED_AFTER_S = 5.0
lead_to_the_doors()
globals().update({name: watched(name, getattr(bundle, name)) for name in bundle.__all__})
