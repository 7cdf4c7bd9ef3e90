"""What ran, as JSON lines: `celeray record` writes them, `celeray simulate` reads them.

One object a line. Memory is integer MiB on each device, CPUs are milli, times are seconds since the epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from celeray.scheduler import priorities
from celeray.scheduler.model import Isolation, ResourceRequest
from celeray.scheduler.simulation.reading import Row, json_line_rows
from celeray.scheduler.simulation.tasks import TraceTask
from celeray.scheduler.status import TaskRecord


def history_line(record: TaskRecord) -> str | None:
    """The line of one finished run, without its end of line. None: it never began, so it is no load."""
    if record.started_at is None or record.ended_at is None:
        return None
    entry: dict[str, Any] = {
        "task_id": record.task_id,
        "name": record.name,
        "queue": record.queue,
        "state": str(record.state),
        "priority": record.priority,
        "gpus": record.gpus,
        "vram_mib": record.vram_mib if record.raised_mib is None else record.raised_mib,
        "exclusive": record.exclusive,
        "gpu_types": list(record.gpu_types),
        "cpus_milli": record.cpus_milli,
        "host_memory_mib": record.host_memory_mib,
        "arrived_at": record.received_at,
        "wait_s": record.wait_s,
        "run_s": record.run_s,
    }
    return json.dumps(entry)


def read_history(path: Path) -> Iterable[TraceTask]:
    """The tasks of a history, in its order.

    Raises:
        TraceError: names file, line, key and value.
    """
    requests: dict[ResourceRequest, ResourceRequest] = {}
    for row in json_line_rows(path):
        request = _request(row)
        yield TraceTask(
            name=row.text("task_id", "") or f"line-{row.line}",
            request=requests.setdefault(request, request),
            arrived_s=row.seconds("arrived_at"),
            run_s=_run_s(row),
            priority=_priority(row),
            service=row.text("queue", ""),
        )


def _request(row: Row) -> ResourceRequest:
    gpus = row.whole("gpus")
    whole = row.values.get("vram_mib") is None
    return ResourceRequest(
        gpus=gpus,
        memory_mib=None if whole or not gpus else row.whole("vram_mib", least=1),
        exclusive=bool(gpus) and (whole or row.values.get("exclusive") is True),
        gpu_types=row.texts("gpu_types"),
        cpus_milli=row.whole("cpus_milli", default=0),
        host_memory_mib=row.whole("host_memory_mib", default=0),
        isolation=Isolation.FRESH,
    )


def _run_s(row: Row) -> float | None:
    found = row.seconds("run_s")
    if found is not None and found < 0:
        raise row.error("run_s", "expected seconds, at least 0")
    return found


def _priority(row: Row) -> int:
    found = row.whole("priority", least=1, default=priorities.DEFAULT)
    if found > priorities.MOST:
        raise row.error("priority", f"expected 1 to {priorities.MOST}")
    return found
