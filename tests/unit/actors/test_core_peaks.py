"""What an executor's process tells of its VRAM with the end of each run, on simulated devices."""

from __future__ import annotations

from pathlib import Path

from celeray.actors.simulated import SimulatedDevices
from celeray.scheduler.model import Attribution
from tests.unit.actors.core_process import core_process
from tests.unit.actors.test_executor_core import ended, run, spec

NODE = "0123456789abcdef"


def test_each_run_tells_what_it_used(tmp_path: Path) -> None:
    (device,) = SimulatedDevices("1x24GiB", NODE, tmp_path).devices
    with core_process(spec(device.uuid, peak_interval_s=60.0), tmp_path) as core:
        core.call("load")
        told = [
            (event.peak_mib, event.attribution)
            for event, _ in (
                ended(run(core, "simple.noop")),
                ended(run(core, "simple.hold", 500)),
                ended(run(core, "simple.hold", 100)),
                ended(run(core, "simple.noop")),
            )
        ]
        core.call("shutdown")
    by = Attribution.PID.value
    assert told == [(None, None), (500, by), (500, by), (100, by)]


def test_without_devices_or_where_nobody_asks_nothing_is_told(tmp_path: Path) -> None:
    (device,) = SimulatedDevices("1x24GiB", NODE, tmp_path).devices
    for one in (spec(peak_interval_s=60.0), spec(device.uuid)):
        with core_process(one, tmp_path) as core:
            core.call("load")
            event, _ = ended(run(core, "simple.hold", 500))
            assert (event.peak_mib, event.attribution) == (None, None)
            core.call("shutdown")
