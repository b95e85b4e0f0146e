"""`python -m tests.permissions record FOLDER...`, `python -m tests.permissions document`.

`record` adds what the local clouds below the folders counted to recorded.json, or with `--anew`
replaces it; `document` writes docs/permissions.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.permissions import record, report


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.permissions", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="take over the calls of local clouds")
    recording.add_argument("folders", nargs="+", type=Path)
    recording.add_argument("--anew", action="store_true", help="forget what was recorded")
    commands.add_parser("document", help="write docs/permissions.md")
    asked = parser.parse_args()
    if asked.command == "document":
        report.FILE.write_text(report.document())
        return
    found = set() if asked.anew else record.recorded()
    for folder in asked.folders:
        found |= record.made_below(folder)
    record.write(found)


main()
