"""The serving container: answers recommendation requests from one version of one model."""
