"""Cloud Run on one machine: services and jobs whose instances and tasks are local processes."""

from localcloud.run.cloud_run import CloudRun
from localcloud.run.measurement import Measurement
from localcloud.run.process import Image

__all__ = ["CloudRun", "Image", "Measurement"]
