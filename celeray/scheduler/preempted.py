"""What a message tells of being put back for an urgent task: its next run is not ended for another one.

A header of the message, written in the step that puts it back, so whichever bridge takes it next knows, and nothing is
left once the message is done with. It counts for the next run only: a retry of Celery's is another message with another
number, and one of a retry policy has another number of attempts. Whoever can publish can write that header: reading it
never fails, and is bounded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celeray.scheduler.letters.attempts import attempts_of

HEADER = "celeray_preempted"
MOST = 2_000
"""Characters of a header that are read."""
TASK_ID_MOST = 255
"""Characters of a task id that are kept."""


@dataclass(frozen=True, slots=True)
class PutBack:
    """A message was put back."""

    at: float
    """Seconds since the epoch by the bridge's clock."""
    for_task: str
    """Id of the urgent task."""

    def header(self, headers: Any) -> str:
        """As the message's header has it: printable ASCII.

        Args:
            headers: of the message as it was taken.
        """
        return json.dumps([*_attempt(headers), round(self.at, 3), self.for_task[:TASK_ID_MOST]])


def put_back_of(headers: Any) -> PutBack | None:
    """Whether the run before this one was put back, by the message's headers. None: it was not."""
    text = headers.get(HEADER) if isinstance(headers, Mapping) else None
    if not isinstance(text, str) or len(text) > MOST:
        return None
    try:
        retries, retried, at, for_task = json.loads(text)
        known = math.isfinite(at) and isinstance(for_task, str) and [retries, retried] == _attempt(headers)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return PutBack(float(at), for_task[:TASK_ID_MOST]) if known else None


def _attempt(headers: Any) -> list[int]:
    """Numbers that change with whatever follows from a run that has ended."""
    retries = headers.get("retries") if isinstance(headers, Mapping) else None
    return [retries if isinstance(retries, int) else 0, attempts_of(headers).retried]
