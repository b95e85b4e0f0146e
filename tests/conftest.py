"""What every test run says first: which of Google's emulators the contracts also ran against."""

from tests.contract import firestore_backends, pubsub_backends


def pytest_report_header() -> list[str]:
    """Name both halves of the contract suites, and the half that is left out."""
    return [pubsub_backends.describe_backends(), firestore_backends.describe_backends()]
