"""Asks gcloud's own parser about commands, without running them and without a network.

    python -S gcloud_parser.py SDK_FOLDER < COMMANDS

COMMANDS is a JSON list of lists of words, without `gcloud`. Prints a JSON list: for each what is
wrong with it, or an empty text.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys


def main(sdk: str) -> None:
    """Parse each command as gcloud would before running it."""
    sys.path[:0] = [f"{sdk}/lib/third_party", f"{sdk}/lib"]
    from googlecloudsdk import gcloud_main  # type: ignore[import-not-found]

    parser = gcloud_main.CreateCLI([])._CLI__parser
    print(json.dumps([_fault(parser, words) for words in json.load(sys.stdin)]))


def _fault(parser: object, words: list[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            parser.parse_args(words)  # type: ignore[attr-defined]
        except SystemExit:
            return said.getvalue().strip() or "refused"
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
