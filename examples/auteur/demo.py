"""`scripts/demo`: brings everything up with simulated GPUs, runs the film, and shows where each task ran.

With `--once` it ends when the work is done: with 0 if all of it succeeded and all parts ended in order, else 1.
Without, the stack stays up until Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from celery.result import AsyncResult
from rich.console import Console

from celeray.scheduler.embedded_redis import free_port
from examples.auteur.report import device_table, model_line, status_line, task_table
from examples.auteur.stack import Stack
from examples.auteur.watch import Watcher, Where, await_row, task_ids

SIMULATED_GPUS = "2x24GiB,1x80GiB"
FILM_DEADLINE_S = 120.0
TASK_DEADLINE_S = 60.0

console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code."""
    options = parse(argv)
    # As Ctrl-C does, so that the stack never outlives its demo.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    begin = time.monotonic()
    with ExitStack() as opened:
        root = Path(options.keep or opened.enter_context(tempfile.TemporaryDirectory(prefix="celeray-")))
        stack = Stack(
            root, SIMULATED_GPUS, options.api_port or free_port(), options.flower_port or free_port()
        )
        console.print(
            f"starting Redis, Ray with simulated GPUs {SIMULATED_GPUS}, bridge, workers, API, Flower ..."
        )
        try:
            opened.enter_context(stack)
            console.print(f"ready after {time.monotonic() - begin:.0f} s; running the film ...")
            run(stack, root)
        except Exception:
            console.print(stack.tail(), markup=False)
            raise
        if not options.once:
            console.print("\nThe stack stays up; Ctrl-C ends it.")
            with suppress(KeyboardInterrupt):
                stack.wait()
    console.print(f"done after {time.monotonic() - begin:.0f} s")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--once", action="store_true", help="end when the work is done")
    parser.add_argument("--api-port", type=int, help="default: a free one")
    parser.add_argument("--flower-port", type=int, help="default: a free one")
    parser.add_argument(
        "--keep", metavar="DIR", help="folder for pictures and state; default: a temporary one"
    )
    return parser.parse_args(argv)


def run(stack: Stack, root: Path) -> None:
    """The film and three single calls; then what REST says of them.

    Raises:
        Exception: what a task raised, or a deadline that passed.
    """
    # The app reads the broker's address when it is imported.
    os.environ["CELERY_BROKER_URL"] = os.environ["CELERY_RESULT_BACKEND"] = stack.redis_url
    from examples.auteur import film as job
    from examples.auteur.app import app

    folders = job.Folders.under(root)
    watcher = Watcher(app).start()
    made = job.film("auteur", folders).apply_async()
    kept = made.get(timeout=FILM_DEADLINE_S)
    answers = {
        task_id: AsyncResult(task_id, app=app).get(timeout=TASK_DEADLINE_S) for task_id in task_ids(made)
    }
    scene, card = (next(a for a in answers.values() if key in a) for key in ("palette", "read"))

    single = [
        job.retake(scene, "TAKE TWO", folders),
        job.look_now(scene["path"]),
        job.thumbnail_for_user(scene["path"], folders.work),
    ]
    again, *_ = (result.get(timeout=TASK_DEADLINE_S) for result in single)
    rows = [await_row(task_id, stack.api, watcher) for task_id in (*answers, *(r.id for r in single))]
    watcher.stop()
    show(stack, rows, cold=card, warm=again)
    console.print(
        f"\nFilm: {len(kept['objects'])} objects by content in {folders.bucket}; --keep DIR keeps them"
    )
    if not again["ran"]["warm"]:
        raise RuntimeError("the second title card did not find its model warm")


def show(stack: Stack, rows: Sequence[Where], *, cold: dict[str, Any], warm: dict[str, Any]) -> None:
    """Print the tables and the addresses."""
    console.print(task_table(rows))
    console.print(model_line(cold, warm), markup=False)
    console.print(device_table(stack.api.get("/v1/devices")["devices"]))
    console.print(status_line(stack.api.get("/v1/status")), markup=False)
    console.print(f"\nAPI     {stack.api.url}/v1/status   {stack.api.url}/docs   {stack.api.url}/metrics")
    console.print(f"Flower  http://127.0.0.1:{stack.flower_port}")


if __name__ == "__main__":
    sys.exit(main())
