"""`python -m examples.movielens`: train, and publish when asked."""

from examples.movielens.commands import main

if __name__ == "__main__":
    main()
