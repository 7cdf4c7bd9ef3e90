"""One failed attempt as its letter shows it, from Celery's request of the run."""

from __future__ import annotations

import socket
from typing import Any

from celeray.scheduler.failing import PolicyRetry
from celeray.scheduler.letters.attempts import (
    DEVICES_MOST,
    NAME_MOST,
    Attempt,
    clean,
    end_of,
    name_of,
    seconds,
    text_of,
)
from celeray.scheduler.outcomes import Outcome


def attempt_of(
    request: Any, outcome: Outcome, error: BaseException, traceback: str | None, now: float
) -> Attempt:
    """The attempt that has just ended.

    Args:
        request: of the worker (celery/worker/request.py). What its pool gave it for the run tells where that was, if
            it is a `Run` of the bridge; other pools run it on this machine.
        traceback: as text.
        now: seconds since the epoch.
    """
    run = _run_of(request)
    begin = getattr(getattr(run, "facts", None), "begin", None)
    began_at = seconds(request.time_start)
    here = None if began_at is None else socket.gethostname()
    fields = begin.fields if begin is not None else {}
    wanted = getattr(run, "request", None)
    return Attempt(
        number=1,
        outcome=outcome.value,
        began_at=began_at,
        ended_at=now,
        worker=clean(str(request.hostname), NAME_MOST),
        node=clean(str(fields["node_name"]), NAME_MOST) if fields else here,
        devices=tuple(str(uuid) for uuid in fields.get("device_uuids", ()))[:DEVICES_MOST],
        vram_asked_mib=getattr(wanted, "memory_mib", None),
        vram_peak_mib=getattr(run, "peak_mib", None),
        **_error_fields(error, traceback),
    )


def _run_of(request: Any) -> Any:
    # Weakly: Celery keeps what its pool returned so.
    result = request._apply_result
    return None if result is None else result()


def _error_fields(error: BaseException, traceback: str | None) -> dict[str, str]:
    if isinstance(error, PolicyRetry):
        return {"exception": error.error_name, "message": error.error_text, "traceback": error.trace}
    return {
        "exception": name_of(type(error)),
        "message": text_of(error),
        "traceback": end_of(traceback),
    }
