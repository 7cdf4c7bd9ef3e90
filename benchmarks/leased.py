"""The app of `apps` with celeray on it, for the workers whose transport is the leased one."""

from __future__ import annotations

import celeray
from benchmarks.apps import app as app

celeray.install(app)
