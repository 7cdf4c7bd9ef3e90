"""What `celeray.install` leaves on an app: one object, that the other parts at Celery's edge read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.settings import Settings

_ATTRIBUTE = "_celeray_installed"


@dataclass(slots=True)
class Installed:
    """State of the installation on one app."""

    settings: Settings
    given: Settings | None = None
    """What the caller of `install` passed; conf keys then don't count."""
    warned: set[str] = field(default_factory=set)
    """Settings that a broken promise was warned about."""


def installed_on(app: Any) -> Installed | None:
    """The installation, or None."""
    found = app.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, Installed) else None


def remember(app: Any, installed: Installed) -> None:
    """Leave the installation on the app."""
    app.__dict__[_ATTRIBUTE] = installed


def settings_of(app: Any) -> Settings:
    """The settings that celeray uses on `app`, with the `celeray_*` keys of its conf. Reads the app's conf.

    Raises:
        ConfigurationError: celeray is not installed on the app, or a `celeray_*` key is wrong.
    """
    if not app.configured:
        app.conf.finalize()
    found = installed_on(app)
    if found is None:
        raise ConfigurationError(f"celeray is not installed on {app!r}: call celeray.install(app)")
    return found.settings
