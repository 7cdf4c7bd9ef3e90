"""Making a process what a prefork child of the bridge would be: same app, same tasks, same logging, same signals."""

from __future__ import annotations

import os
import sys

from celery import Celery, signals
from celery._state import _set_task_join_will_block
from celery.app import trace
from celery.app.utils import find_app
from celery.worker import state as worker_state

from celeray.scheduler.cluster import AppSpec, ExecutorSpec
from celeray.scheduler.gating import gate_tasks
from celeray.scheduler.installation import install
from celeray.scheduler.settings import Settings


def prepare_environment(spec: ExecutorSpec) -> None:
    """Set what numeric libraries read when they are imported; so this comes before the app's import.

    OMP_NUM_THREADS is the CPUs of the request. Where it names none, the variable goes: Ray sets 1 for an actor
    without CPUs of its own, and `ray up` exports 1 to every node, which would run a numeric library on one core of
    an idle node. What the user put into `runtime_env` stays.
    """
    wanted = {"CUDA_VISIBLE_DEVICES": ",".join(spec.device_uuids)}
    env_vars = spec.runtime_env.get("env_vars") or {}
    if "OMP_NUM_THREADS" not in env_vars:
        os.environ.pop("OMP_NUM_THREADS", None)
        if spec.cpus > 0:
            wanted["OMP_NUM_THREADS"] = str(spec.cpus)
    os.environ.update(wanted)
    working_dir = spec.app.working_dir
    if "working_dir" not in spec.runtime_env and os.path.isdir(working_dir):
        os.chdir(working_dir)
        sys.path[:] = [working_dir, *(entry for entry in sys.path if entry != working_dir)]


def load_app(spec: AppSpec) -> Celery:
    """Import the app and its tasks, and set the process up as `celery.concurrency.prefork.process_initializer` does.

    Raises:
        Exception: whatever the import of the app or one of its modules raises.
    """
    _set_task_join_will_block(True)
    for name, value in spec.environ.items():
        os.environ.setdefault(name, value)
    app: Celery = find_app(spec.app)
    # As the bridge does, whether or not the user's code did it.
    install(app, Settings.model_validate_json(spec.settings) if spec.settings else None)
    app.conf.include = tuple(app.conf.include) + spec.include
    app.loader.init_worker()
    app.loader.init_worker_process()
    app.log.setup(
        spec.loglevel,
        None,
        spec.redirect_stdouts,
        spec.redirect_stdouts_level,
        hostname=spec.hostname,
    )
    trace.setup_worker_optimizations(app, spec.hostname)
    gate_tasks(app)
    for name, task in app.tasks.items():
        task.__trace__ = trace.build_tracer(name, task, app.loader, spec.hostname, app=app)
    worker_state.reset_state()
    signals.worker_process_init.send(sender=spec.hostname)
    return app


def announce_shutdown(hostname: str) -> None:
    """Send the signal that a prefork child sends when it ends by itself."""
    signals.worker_process_shutdown.send(sender=hostname, pid=os.getpid(), exitcode=0)
