"""The parts of the running dashboard, as its views reach them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import flask

from functions.dashboard.acting import Actions
from functions.dashboard.identity import Identify
from functions.dashboard.reading import Reader
from functions.dashboard.security import Forms
from functions.dashboard.settings import DashboardSettings


@dataclass(frozen=True)
class Parts:
    """What one app is made of."""

    settings: DashboardSettings
    identify: Identify
    reader: Reader
    actions: Actions
    forms: Forms


def parts() -> Parts:
    """Return the parts of the app that answers this request."""
    return cast(Parts, flask.current_app.extensions["turnout"])


def reader() -> Reader:
    """Return what answers questions."""
    return parts().reader


def actions() -> Actions:
    """Return what changes things."""
    return parts().actions
