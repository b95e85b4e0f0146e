"""`python -m localcloud FOLDER`: the local cloud without the command line."""

import sys
from pathlib import Path

from localcloud.server import run

raise SystemExit(run(Path(sys.argv[1] if len(sys.argv) > 1 else ".turnout")))
