"""Cloud Workflows on one machine: the Executions API and an interpreter of the language."""

from localcloud.workflows.clock import Clock, FakeClock, SystemClock
from localcloud.workflows.errors import SourceError
from localcloud.workflows.service import Workflows

__all__ = ["Clock", "FakeClock", "SourceError", "SystemClock", "Workflows"]
