"""The command line: the same commands on this machine and in production."""
