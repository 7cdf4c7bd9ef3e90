"""Takes in what somebody put on the dead-letter queue: it becomes letters, and the queue is empty.

The keeper does this. Each message leaves its list in the step in which its letter is made, so any number of keepers may
do it at once. A paused queue is emptied all the same: a pause keeps workers away, and nothing runs by this.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.reports import read_report
from celeray.scheduler.letters.scripts import letter_script
from celeray.scheduler.transport.scripts import Argument

logger = logging.getLogger(__name__)

PART_MOST = 50
"""Messages a run of the script, each moved with its bytes."""
PARTS_A_RUN = 200
"""10,000 messages are taken in by one run."""


@dataclass(frozen=True, slots=True)
class TakenIn:
    """What became of what was on the queue."""

    letters: int = 0
    unsendable: int = 0
    """Of them, those that no redrive can send as they are; their detail says why."""


def take_in(client: Any, keys: Keys, queue: str) -> TakenIn:
    """Make letters of what is on a queue, the most urgent and then the oldest first; at most 10,000.

    Args:
        client: of the broker's database, without a key prefix of its own.

    Raises:
        redis.RedisError: Redis does not answer; what was taken in so far is.
    """
    lists = keys.queue_lists(queue)
    letters = unsendable = parts = 0
    # TYPE first: a list of that name may be something else, which is no error of Redis.
    with client.pipeline(transaction=False) as pipe:
        for name in lists:
            pipe.type(name)
        kinds = pipe.execute()
    for name in (name for name, kind in zip(lists, kinds, strict=True) if kind == b"list"):
        while parts < PARTS_A_RUN and (raws := client.lrange(name, -PART_MOST, -1)):
            parts += 1
            taken, bad = _take_part(client, keys, queue, name, raws)
            letters, unsendable = letters + taken, unsendable + bad
    return TakenIn(letters, unsendable)


def _take_part(client: Any, keys: Keys, queue: str, name: str, raws: list[bytes]) -> tuple[int, int]:
    """Letters that were made, and how many of them can't be sent."""
    book: list[Any] = keys.lease_book()
    reports = [read_report(raw, queue) for raw in reversed(raws)]
    args: list[Argument] = []
    for raw, report in zip(reversed(raws), reports, strict=True):
        message, tries = report.message or b"", "" if report.tries is None else report.tries
        args += [len(book) + 1, report.letter_id, raw, message, report.detail, tries, report.exception or ""]
    made = letter_script("take_in")(client, [*book, name], args)
    taken = [(report, letter) for report, letter in zip(reports, made, strict=True) if letter]
    for report, letter in taken:
        logger.debug("%s is taken in as dead letter %s: %s", queue, letter.decode(), report.detail)
    return len(taken), sum(not report.can_be_sent for report, _ in taken)
