"""The external worker's command line."""

from __future__ import annotations

import sys
from pathlib import Path

from celery import Celery

from benchmarks.workers import WorkerProcess

APP_MODULE = "tests.conformance.worker_app"
KINDS = ("prefork", "bridge")

# What Celery's embedded worker leaves out too.
_QUIET = ["--without-mingle", "--without-gossip", "--without-heartbeat"]


def external_worker(kind: str, app: Celery, node: str, log: Path) -> WorkerProcess:
    """A worker of one of the `KINDS`, not started yet. One task at a time, as the suite's own."""
    worker_options = ["-n", node, "-l", "INFO", *_QUIET]
    if kind == "prefork":
        command = [sys.executable, "-m", "celery", "-A", APP_MODULE, "worker", "-P", "prefork", "-c", "1"]
        command += ["-Q", "celery", *worker_options]
    else:
        celeray = str(Path(sys.executable).with_name("celeray"))
        command = [celeray, "bridge", "-A", APP_MODULE, "-Q", "celery", "-c", "1"]
        command += ["--simulate-gpus", "1x8GiB", "--", *worker_options]
    return WorkerProcess(command, app=app, node=node, log=log)
