"""What holds of a site in a memory cgroup, whichever worker it is."""

from __future__ import annotations

import os
import signal

from celeray.scheduler.parked import ParkReason
from tests.integration.bridge.live import until
from tests.integration.memory_cgroup import MemoryCgroup
from tests.integration.outcome_rows import Row, Site, check, check_nothing_left, send


def check_kernel_kills(row: Row, site: Site, cgroup: MemoryCgroup) -> None:
    """Run a row; each of its attempts ends by a kill that the kernel counts."""
    before = cgroup.kills()

    letter = check(row, site, send(row, site))

    assert letter is not None
    assert {attempt.outcome for attempt in letter.history} == {row.outcome}
    assert cgroup.kills() - before == row.attempts, "the kernel did it"
    check_nothing_left(site)


def check_killed_by_another(site: Site, reason: ParkReason) -> None:
    """A process that somebody else kills is not taken for one that ran out of memory, though others did before."""
    result = site.app.tasks["ends.stays"].apply_async((60.0,), queue=site.queue)
    until(lambda: result.state == "STARTED", "it runs")
    os.kill(int(result.info["pid"]), signal.SIGKILL)

    letter = until(lambda: site.letter_of(result.id), "it is parked")
    assert letter.reason == reason
