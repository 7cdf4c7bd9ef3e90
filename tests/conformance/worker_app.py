"""The app that an external worker loads: the suite's configuration, and the worker's end of the harness.

It is imported by the worker, by its pool's children and, under the bridge, by the executors. Its settings come from
the environment that `run` builds.
"""

from __future__ import annotations

import os
from typing import Any

import redis
import t.integration.tasks
from celery.contrib.testing.app import TestApp
from celery.exceptions import SecurityError
from celery.signals import after_setup_logger, task_prerun, task_received, worker_process_init
from celery.worker import state as worker_state
from celery.worker.control import inspect_command
from kombu.serialization import register

from tests.conformance import relay
from tests.conformance.runs import RUNS_VARIABLE, record_run
from tests.conformance.state import OPERATIONS, STATE_COMMAND

app = TestApp(
    config={
        "broker_url": os.environ["TEST_BROKER"],
        "result_backend": os.environ["TEST_BACKEND"],
        "result_extended": True,
        "task_create_missing_queues": False,
        # Celery's own defaults, named: the suite asserts them, and `celeray.install` prefers others.
        "task_default_queue": "celery",
        "task_default_exchange": "celery",
        "task_acks_late": False,
    },
    enable_logging=True,
    set_as_current=True,
)
app.set_default()
app.register_task(t.integration.tasks.ClassBasedAutoRetryTask)


def refuse_signed(body: bytes) -> None:
    raise SecurityError("signed by a certificate that this worker's store does not hold")


# In the embedded worker test_security's setup makes `auth` known to the worker too. Without a decoder for its content
# type, kombu takes that for trusted raw bytes, and a stock consumer ends on a body that is no triple.
register("auth", None, refuse_signed, content_type="application/data", content_encoding="utf-8")

_runs = redis.Redis.from_url(os.environ[RUNS_VARIABLE])
_relay_address = os.environ[relay.ADDRESS_VARIABLE]


# After Celery's own set-up: a root logger that has a handler already is left without the worker's.
@after_setup_logger.connect
@worker_process_init.connect
def relay_logs(**_: object) -> None:
    relay.install_handler(_relay_address)


@task_received.connect
def relay_received(request: Any, **_: object) -> None:
    relay.install_handler(_relay_address)(request.message)


@task_prerun.connect
def record_process(**_: object) -> None:
    record_run(_runs)


@inspect_command(name=STATE_COMMAND, visible=False)
def conformance_state(state: object, name: str, operation: str, key: str | None = None) -> object:
    """The suite reads and clears sets of the worker's state directly; `state.RemoteState` asks for it here."""
    return OPERATIONS[operation](getattr(worker_state, name), key)
