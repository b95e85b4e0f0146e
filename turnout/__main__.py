"""`python -m turnout`: the command line where its script is not on the path."""

from turnout.cli import main

main()
