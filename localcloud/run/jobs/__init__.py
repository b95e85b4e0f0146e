"""Cloud Run jobs: executions whose tasks are local processes that run to their end."""

from localcloud.run.jobs.service import Jobs
from localcloud.run.jobs.store import SCHEMA

__all__ = ["SCHEMA", "Jobs"]
