"""Cloud Monitoring on one machine: time series over what the front door measured."""

from localcloud.monitoring.monitoring import Monitoring

__all__ = ["Monitoring"]
