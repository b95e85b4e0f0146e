"""Query parameters, each taken by name; what nobody took is refused by name."""

from __future__ import annotations

from collections.abc import Mapping

from localcloud.storage.errors import Invalid, Unsupported

# They change how an answer looks, not what is done; `fields` is applied by `respond`.
_PRESENTATION = frozenset({"alt", "fields", "prettyPrint", "projection"})


class Query:
    """The parameters of one request."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self._parameters = parameters
        self._taken: set[str] = set(_PRESENTATION)

    def text(self, name: str) -> str | None:
        """Return a parameter, or None where it was not sent."""
        self._taken.add(name)
        return self._parameters.get(name)

    def required(self, name: str) -> str:
        """Return a parameter that must be there; Invalid otherwise."""
        value = self.text(name)
        if not value:
            raise Invalid(f"Required parameter: {name}")
        return value

    def integer(self, name: str) -> int | None:
        """Return a whole number of at least 0; Invalid when it is something else."""
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit()):
            raise Invalid(f"Invalid value for {name}: {value!r} is not a whole number")
        return int(value)

    def flag(self, name: str) -> bool:
        """Return a boolean, false where it was not sent."""
        value = (self.text(name) or "false").lower()
        if value not in ("true", "false"):
            raise Invalid(f"Invalid value for {name}: {value!r} is neither true nor false")
        return value == "true"

    def finish(self) -> None:
        """Refuse what nobody took: it might have changed the meaning of the request."""
        for name in self._parameters:
            if name not in self._taken:
                raise Unsupported(f"query parameter {name!r}")
