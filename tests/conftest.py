"""What every test run says first, and what all property tests share."""

from hypothesis import settings

from tests.contract import firestore_backends, pubsub_backends

# No test measures time: one that takes long on a busy machine has not failed.
settings.register_profile("turnout", deadline=None)
settings.load_profile("turnout")


def pytest_report_header() -> list[str]:
    """Name both halves of the contract suites, and the half that is left out."""
    return [pubsub_backends.describe_backends(), firestore_backends.describe_backends()]
