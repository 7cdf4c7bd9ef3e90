"""`python -m tests.faults.dedup_submitters FIRST PROCESSES SUBMITTERS KEYS`: threads that all submit the same keys.

Each submits again whatever it was not told of, until it was told of every key. Prints how often that was, and one
number for what it was told: that of all processes is the same where all were told the same.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import celeray
from tests.faults.submitting import PUBLISH_ERRORS
from tests.faults.worker_app import app, config, once

BATCH = 500
ALONE_EVERY = 16
"""So many submitters share one that calls key by key, the others submit in batches."""
PATIENCE_S = 120.0


class Repetitions:
    """Submissions that failed and were made again."""

    def __init__(self) -> None:
        self.count = 0

    def until_told(self, submit: Callable[[], list[str]]) -> list[str]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return submit()
            except PUBLISH_ERRORS:
                if time.monotonic() > deadline:
                    raise
                self.count += 1
                time.sleep(0.1)


def submit_all(number: int, keys: int, again: Repetitions) -> dict[str, str]:
    """Task ids by key. Each submitter begins at another key."""
    names = [f"k{(n + number * keys // 64) % keys}" for n in range(keys)]
    size = 1 if number % ALONE_EVERY == 0 else BATCH
    found: dict[str, str] = {}
    for start in range(0, keys, size):
        part = names[start : start + size]
        found.update(zip(part, again.until_told(lambda part=part: submit(part)), strict=True))
    return found


def submit(names: list[str]) -> list[str]:
    signatures = [once.s(name).set(queue=config.queue) for name in names]
    if len(signatures) == 1:
        return [signatures[0].apply_async().id]
    return [one.id for one in celeray.submit_batch(signatures, app).results]


def main(first: int, processes: int, submitters: int, keys: int) -> None:
    found: dict[int, dict[str, str]] = {}
    again = Repetitions()

    def run(number: int) -> None:
        found[number] = submit_all(number, keys, again)

    app.finalize()
    threads: list[Any] = [
        threading.Thread(target=run, args=(n,)) for n in range(first, submitters, processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads), "a submitter failed"
    assert all(one == found[first] for one in found.values()), "submitters were told different things"
    told = hashlib.sha256(repr(sorted(found[first].items())).encode()).hexdigest()
    print(again.count, told)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
