"""What a request decides where its process is gone, and what has been told before."""

from __future__ import annotations

from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError

from celeray.scheduler.endings.request import SettledRequest
from celeray.scheduler.endings.writing import Writer
from celeray.scheduler.outcomes import Outcome
from celeray.scheduler.settings import Settings


class Kills:
    def __init__(self, risen: bool) -> None:
        self._risen = risen

    def take(self) -> bool:
        return self._risen


@pytest.mark.parametrize(
    ("text", "risen", "outcome"),
    [
        ("Worker exited prematurely: signal 9 (SIGKILL) Job: 0.", True, Outcome.HOST_MEMORY),
        ("Worker exited prematurely: signal 9 (SIGKILL) Job: 0.", False, Outcome.WORKER_LOST),
        ("Worker exited prematurely: signal 11 (SIGSEGV) Job: 0.", True, Outcome.WORKER_LOST),
    ],
)
def test_a_kill_that_the_kernel_counts_is_for_memory(text: str, risen: bool, outcome: Outcome) -> None:
    request, writer = SettledRequest(), Writer(Settings(), sends_again=True)
    writer.kills = Kills(risen)  # type: ignore[assignment]
    request.celeray_writer = writer

    assert request._outcome(WorkerLostError(text)) is outcome


def test_the_pool_knows_better() -> None:
    request = SettledRequest()
    request.celeray_lost_as = Outcome.NODE_LOST

    assert request._outcome(WorkerLostError("gone")) is Outcome.NODE_LOST


@pytest.mark.parametrize("told", ["_already_revoked", "_already_cancelled", "acknowledged"])
def test_what_was_told_before_is_not_decided_again(told: str) -> None:
    class Base:
        _already_revoked = _already_cancelled = acknowledged = False
        calls = 0

        class task:
            acks_late = True

        def on_failure(self, *args: Any, **kwargs: Any) -> None:
            type(self).calls += 1

    class Told(SettledRequest, Base):  # type: ignore[misc]
        pass

    request = Told()
    setattr(request, told, True)
    try:
        raise WorkerLostError("gone")
    except WorkerLostError:
        request.on_failure(ExceptionInfo())

    assert (Told.calls, request._decided) == (1, False)
