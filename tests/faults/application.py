"""The app of the fault suite: stock Celery at its safest, or celeray. Made from a `Config` of the environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery

import celeray

VARIABLE = "FAULTS_CONFIG"
QUEUE = "cpu.analysis"
GPU_QUEUE = "gpu.processing"
LEASE_S = 3.0


@dataclass(frozen=True)
class Config:
    """What one side of a test uses."""

    transport: str
    """`kombu` or `leased`."""
    broker: str
    world: str
    """Results, effects: a server that no fault touches, unless a test says so."""
    history: str
    options: dict[str, Any] = field(default_factory=dict)
    """Of `broker_transport_options`, over those that make the faults quick to see."""
    conf: dict[str, Any] = field(default_factory=dict)
    """Of the Celery app."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of celeray."""
    queue: str = QUEUE

    def environment(self) -> dict[str, str]:
        """For a process that loads `tests.faults.worker_app`."""
        root = str(Path(__file__).parents[2])
        return {
            VARIABLE: json.dumps(asdict(self)),
            "CELERAY_TRANSPORT": self.transport,
            "CELERAY_FORWARD_ENV": json.dumps([VARIABLE, "CELERAY_TRANSPORT"]),
            "PYTHONPATH": root,
        }

    @classmethod
    def from_environment(cls) -> Config:
        return cls(**json.loads(os.environ[VARIABLE]))


def transport_options(config: Config) -> dict[str, Any]:
    """Leases of 3 s and a visibility timeout of 3 s, looked at every second: a fair race."""
    return {
        "lease_s": LEASE_S,
        "visibility_timeout": LEASE_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,
        "socket_connect_timeout": 2,
        "poison_after": 0,
        "priority_steps": list(range(10)),
        **config.options,
    }


AT_ITS_SAFEST = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "task_track_started": True,
    "worker_send_task_events": True,
    "broker_connection_retry_on_startup": True,
    "broker_channel_error_retry": True,
    "task_serializer": "msgpack",
    "accept_content": ["msgpack", "json"],
    "result_expires": 3600,
}
"""Celery's own settings, as `celeray.install` has them."""


def make_app(config: Config, *, main: str = "faults") -> Celery:
    """Celery with celeray installed; on kombu's transport without any of it, and with every safe setting of its own."""
    app = Celery(main, broker=config.broker, backend=config.world, set_as_current=False)
    app.conf.update(
        broker_transport_options=transport_options(config),
        # A callback is published again until the broker is back: Celery's default of 3 tries ends after 0.6 s, and then
        # the task counts as failed and its callback never runs. Without a bound it falls back to 3.
        task_publish_retry_policy={
            "max_retries": 100,
            "interval_start": 0.1,
            "interval_step": 0.2,
            "interval_max": 1,
        },
        broker_connection_max_retries=None,
        result_backend_transport_options={"retry_policy": {"timeout": 5.0}},
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
    )
    if config.transport == "leased":
        app.conf.update(config.conf)
        celeray.install(app, celeray.Settings.load(transport="leased", **config.settings))
    else:
        app.conf.update({**AT_ITS_SAFEST, "task_default_queue": config.queue, **config.conf})
    return app
