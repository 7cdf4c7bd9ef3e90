"""What `celeray up` runs: each part's command and environment, from the settings. Pure."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celeray.cli.processes import Command
from celeray.scheduler.settings import Settings, WorkerSettings

OF_RAY_UP = ("OMP_NUM_THREADS", "PYTHONWARNINGS")
"""What `ray up` exports before a start command, which would slow the CPU workers' own libraries down."""


@dataclass(frozen=True)
class Plan:
    """Everything that the parts need to know."""

    app: str
    settings: Settings
    broker_url: str
    result_backend: str
    key_prefix: str
    api_port: int
    flower_port: int
    """0: no Flower."""
    config_file: str | None
    loglevel: str


def address(host: str, port: int) -> str:
    """Where a server that listens on `host` is reached from this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{reached}:{port}"


def environment(plan: Plan, base: Mapping[str, str], *, of_ray_up: bool) -> dict[str, str]:
    """The environment of the parts.

    Args:
        of_ray_up: drop what `ray up` put into it.
    """
    dropped = OF_RAY_UP if of_ray_up else ()
    kept = {key: value for key, value in base.items() if key not in dropped}
    # The first would open Flower's API, and with it remote code execution, to any page in a browser on this machine;
    # the others would send parts of one stack to another broker.
    for name in ("FLOWER_UNAUTHENTICATED_API", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        kept.pop(name, None)
    # The URLs go here and not on command lines, where every user of the machine could read their passwords. Celery
    # prefers them to what the app's own configuration says.
    kept |= {
        "CELERY_BROKER_URL": plan.broker_url,
        "CELERY_RESULT_BACKEND": plan.result_backend,
        "PYTHONUNBUFFERED": "1",
    }
    if plan.config_file:
        kept["CELERAY_CONFIG"] = os.path.abspath(plan.config_file)
    return kept


def commands(plan: Plan, env: Mapping[str, str]) -> dict[str, Command]:
    """Command by part name, in the order in which they are named on the screen."""
    made = {"bridge": Command(_bridge(plan), env, signal.SIGQUIT)}
    for name, worker in plan.settings.workers.items():
        made[name] = Command(_worker(plan, name, worker), env, signal.SIGQUIT)
    made["keeper"] = Command(_celeray("keeper", "-A", plan.app, "-l", plan.loglevel), env)
    made["api"] = Command(_api(plan), {**env, **_exported(plan.settings)})
    if plan.flower_port:
        address = ("flower", "--address=127.0.0.1", f"--port={plan.flower_port}")
        made["flower"] = Command((*_celery(plan), *address), env)
    return made


def _celeray(*args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "celeray.cli", *args)


def _celery(plan: Plan) -> tuple[str, ...]:
    return (sys.executable, "-m", "celery", "-A", plan.app)


def _bridge(plan: Plan) -> tuple[str, ...]:
    settings = plan.settings
    given = [("--ray-address", settings.ray_address), ("--simulate-gpus", settings.simulate_gpus)]
    more = [text for name, value in given if value for text in (name, value)]
    return _celeray("bridge", "-A", plan.app, "-l", plan.loglevel, "-c", str(settings.window), *more)


def _worker(plan: Plan, name: str, worker: WorkerSettings) -> tuple[str, ...]:
    options = [
        "-n",
        f"{name}@%h",
        "-Q",
        ",".join(worker.queues),
        "-P",
        worker.pool,
        "-c",
        str(worker.concurrency),
    ]
    if worker.max_tasks_per_child:
        options += ["--max-tasks-per-child", str(worker.max_tasks_per_child)]
    return (*_celery(plan), "worker", "-l", plan.loglevel, *options)


def _api(plan: Plan) -> tuple[str, ...]:
    prefix = ("--key-prefix", plan.key_prefix) if plan.key_prefix else ()
    return _celeray("api", *prefix, "--port", str(plan.api_port))


def _exported(settings: Settings) -> dict[str, str]:
    """The settings as variables for the API, which imports no app and so can't see what its conf says."""
    values: dict[str, Any] = settings.model_dump(mode="json")
    defaults = {
        key: field.get_default(call_default_factory=True)
        for key, field in type(settings).model_fields.items()
    }
    changed = {key: value for key, value in values.items() if getattr(settings, key) != defaults[key]}
    return {
        f"CELERAY_{key.upper()}": value if isinstance(value, str) else json.dumps(value)
        for key, value in changed.items()
    }
