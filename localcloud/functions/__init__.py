"""Cloud Functions: every entry point of one source folder, hosted by functions-framework."""

from localcloud.functions.host import FunctionsHost, FunctionsNotStarted

__all__ = ["FunctionsHost", "FunctionsNotStarted"]
