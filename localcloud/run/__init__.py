"""Cloud Run on one machine: services and revisions whose instances are local processes."""

from localcloud.run.cloud_run import CloudRun
from localcloud.run.measurement import Measurement
from localcloud.run.process import Image

__all__ = ["CloudRun", "Image", "Measurement"]
