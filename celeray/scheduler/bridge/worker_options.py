"""What the Celery worker was started with, as the bridge needs it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

from celery.exceptions import ImproperlyConfigured

from celeray.scheduler.bridge.fleet import ExecutorLimits
from celeray.scheduler.cluster import AppSpec
from celeray.scheduler.settings import Settings


def node_name(options: Mapping[str, Any]) -> str:
    """The worker's node name, from the pool's `initargs`."""
    return str(options.get("initargs", (None, socket.gethostname()))[1])


def executor_limits(options: Mapping[str, Any]) -> ExecutorLimits:
    """`--max-tasks-per-child` and `--max-memory-per-child` (KiB)."""
    max_kib = options.get("max_memory_per_child")
    return ExecutorLimits(options.get("maxtasksperchild"), max_kib // 1024 if max_kib else None)


def app_spec(app: Any, settings: Settings, hostname: str) -> AppSpec:
    """How executors load the app: as this worker did.

    Raises:
        ImproperlyConfigured: it is not known how the app was named.
    """
    if not settings.app:
        raise ImproperlyConfigured(
            "celeray_app is not set: start the bridge with `celeray bridge -A proj.app`, "
            "or name the app as `-A` does, so that executors can load it"
        )
    environ = os.environ
    return AppSpec(
        app=settings.app,
        working_dir=os.getcwd(),
        hostname=hostname,
        # celery.app.log.Logging.setup leaves what the worker was started with in the environment.
        loglevel=int(environ.get("CELERY_LOG_LEVEL") or logging.WARNING),
        redirect_stdouts=environ.get("CELERY_LOG_REDIRECT", "") == "1",
        redirect_stdouts_level=environ.get("CELERY_LOG_REDIRECT_LEVEL") or "WARNING",
        include=tuple(app.conf.include),
        environ={name: environ[name] for name in settings.forward_env if name in environ},
        settings=settings.model_dump_json(),
    )
