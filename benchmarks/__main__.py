"""`python -m benchmarks` (`make bench`): the container against its peers, then the pipeline.

QUICK=1 does the same with fewer and shorter turns, in under five minutes. The overload is a
command of its own (`python -m benchmarks.overload`), and so is the dashboard's page
(`python -m benchmarks.pages`). Each explains its options with --help.
"""

from __future__ import annotations

import subprocess
import sys

from turnout.demo import ROOT


def main() -> int:
    """Run both, whatever the first one says; return the first exit code that is not 0."""
    if sys.argv[1:]:
        print(__doc__)
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    codes = [
        subprocess.run([sys.executable, "-m", f"benchmarks.{part}"], cwd=ROOT).returncode
        for part in ("serving", "pipeline")
    ]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
