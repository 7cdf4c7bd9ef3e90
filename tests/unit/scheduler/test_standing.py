"""Whether a device may be used: what NVML says, and what operators drained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celeray.scheduler.ledger import Ledger
from celeray.scheduler.model import DeviceReading, Health, NodeReading
from celeray.scheduler.problems import _device_problems
from celeray.scheduler.standing import Drained, Service, Standing, standing
from celeray.scheduler.suspensions import Drain, suspended_anew
from tests.status_samples import device as device_status

DEVICE = DeviceReading("GPU-a", 0, "A100", 24_576, 0, ())
DRAIN = Drain(by="ops@h", at=1.0, why="fan")
UNHEALTHY = replace(DEVICE, health=Health.UNHEALTHY, health_reason="XID 94: contained memory error")
LOST = replace(
    DEVICE, total_mib=None, used_mib=None, health=Health.UNHEALTHY, health_reason="GPU is lost", lost=True
)


@pytest.mark.parametrize(
    ("reading", "node_drain", "device_drain", "expected"),
    [
        (DEVICE, None, None, Standing(Service.IN)),
        (replace(DEVICE, health=Health.HEALTHY), None, None, Standing(Service.IN)),
        (UNHEALTHY, None, None, Standing(Service.OUT, "XID 94: contained memory error")),
        (UNHEALTHY, None, DRAIN, Standing(Service.OUT, "drained by ops@h: fan")),
        (DEVICE, DRAIN, None, Standing(Service.OUT, "its node is drained by ops@h: fan")),
        (LOST, None, None, Standing(Service.LOST, "lost: GPU is lost")),
        (LOST, DRAIN, DRAIN, Standing(Service.LOST, "lost: GPU is lost")),
        (
            replace(DEVICE, used_mib=None),
            None,
            None,
            Standing(Service.UNREADABLE, "its memory can't be read now"),
        ),
    ],
)
def test_the_gravest_counts(
    reading: DeviceReading, node_drain: Drain | None, device_drain: Drain | None, expected: Standing
) -> None:
    assert standing(reading, node_drain, device_drain) == expected


def test_an_old_reading_is_unreadable() -> None:
    assert standing(DEVICE, None, None, readable=False).service is Service.UNREADABLE


@pytest.mark.parametrize(
    ("drained", "usable", "draining"),
    [
        (Drained(), [True, True], False),
        (Drained(devices={"GPU-b": DRAIN}), [True, False], False),
        (Drained(nodes={"node-1": DRAIN}), [False, False], True),
        (Drained(nodes={"n1": DRAIN}), [False, False], True),
        (Drained(nodes={"node-2": DRAIN}, devices={"GPU-z": DRAIN}), [True, True], False),
    ],
)
def test_placement_sees_what_is_drained(drained: Drained, usable: list[bool], draining: bool) -> None:
    ledger = Ledger()
    devices = (DEVICE, replace(DEVICE, uuid="GPU-b"))
    ledger.observe(NodeReading("n1", "node-1", "", 8000, 65_536, {}, devices, 0.0))
    ledger.drained = drained
    (state,) = ledger.nodes(0.0)
    assert [item.usable for item in state.devices] == usable
    assert state.draining is draining


def test_the_loss_of_the_cluster_undrains_nothing() -> None:
    ledger = Ledger()
    ledger.drained = Drained(devices={"GPU-a": DRAIN})
    ledger.observe(NodeReading("n1", "node-1", "", 8000, 65_536, {}, (DEVICE,), 0.0))
    ledger.clear(1.0)
    ledger.observe(NodeReading("n2", "node-1", "", 8000, 65_536, {}, (DEVICE,), 2.0))
    assert not ledger.nodes(2.0)[0].devices[0].usable


def test_draining_again() -> None:
    first = suspended_anew(Drain, None, by="a@h", why="fan", now=5.0)
    assert first == Drain(by="a@h", at=5.0, why="fan")
    assert suspended_anew(Drain, first, by="b@h", why="fan", now=9.0) == first
    assert suspended_anew(Drain, first, by="b@h", why="driver", now=9.0) == Drain(
        by="b@h", at=5.0, why="driver"
    )


def test_what_an_operator_should_look_at() -> None:
    where = "device 0 of node-1 (GPU-a)"
    assert list(_device_problems(device_status())) == []
    assert list(_device_problems(device_status(drained=DRAIN, unusable="drained"))) == []
    bad = device_status(health=Health.UNHEALTHY, health_reason="XID 79", remedy="a reset")
    assert list(_device_problems(bad)) == [f"{where}: XID 79; back by: a reset"]
    leak = device_status(leaking_mib=6144)
    assert list(_device_problems(leak)) == [
        f"{where}: 6144 MiB of ended executors did not come back (no pid)"
    ]
    named = device_status(leaking_mib=6144, leaking_pids=(7, 9))
    assert "(pids 7, 9)" in next(iter(_device_problems(named)))
