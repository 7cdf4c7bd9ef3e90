"""Errors that the driver tells of: which make a device bad, and what is counted."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from celeray.actors.nvml import NvmlReader
from celeray.actors.nvml_query import DeviceLostError, DriverLostError
from celeray.actors.xid_catalog import APPLICATION_XIDS, describe
from celeray.actors.xids import Mark, XidWatch
from celeray.scheduler.model import DeviceReading, Health
from tests.fake_nvml import FakeDevice, FakeNvml
from tests.unit.actors.conftest import MakeNvml

NOW_MS = 0
UNINITIALIZED, NOT_SUPPORTED = 1, 3


def tell(fake: FakeNvml, uuid: str, *xids: int) -> None:
    fake.device(uuid).xids += xids
    fake.write()


def listening(watch: XidWatch) -> XidWatch:
    assert not watch.wait_once(NOW_MS)
    return watch


def read(watch: XidWatch) -> dict[str, DeviceReading]:
    return {device.uuid: device for device in watch.mark(NvmlReader().read())}


def test_an_error_of_the_device_makes_it_unhealthy_and_names_it(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice("GPU-a"), FakeDevice("GPU-b"))
    watch = listening(XidWatch())
    tell(fake, "GPU-b", 79)
    assert watch.wait_once(NOW_MS)
    devices = read(watch)
    assert (devices["GPU-a"].health, devices["GPU-a"].xids) == (Health.HEALTHY, ())
    assert devices["GPU-b"].health is Health.UNHEALTHY
    assert devices["GPU-b"].health_reason == "XID 79: the GPU has fallen off the bus"
    assert devices["GPU-b"].xids == ((79, 1),)


@pytest.mark.parametrize("xid", sorted(APPLICATION_XIDS))
def test_an_error_of_a_task_is_counted_and_changes_nothing(make_nvml: MakeNvml, xid: int) -> None:
    fake = make_nvml(FakeDevice("GPU-a"))
    watch = listening(XidWatch())
    tell(fake, "GPU-a", xid, xid)
    assert [watch.wait_once(NOW_MS) for _ in range(3)] == [True, True, False]
    device = read(watch)["GPU-a"]
    assert (device.health, device.health_reason, device.xids) == (Health.HEALTHY, None, ((xid, 2),))


def test_the_first_error_is_the_reason_and_all_are_counted(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice("GPU-a"))
    watch = listening(XidWatch())
    tell(fake, "GPU-a", 13, 95, 79, 95)
    while watch.wait_once(NOW_MS):
        pass
    device = read(watch)["GPU-a"]
    assert device.health_reason == "XID 95: uncontained memory error"
    assert device.xids == ((13, 1), (79, 1), (95, 2))


def test_what_nvml_itself_finds_stays_the_reason(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice("GPU-a", ecc=3))
    watch = listening(XidWatch())
    tell(fake, "GPU-a", 48)
    watch.wait_once(NOW_MS)
    assert "ECC" in str(read(watch)["GPU-a"].health_reason)
    assert read(watch)["GPU-a"].xids == ((48, 1),)


@pytest.mark.parametrize("place", [0, 1])
def test_a_slice_has_its_cards_errors(make_nvml: MakeNvml, place: int) -> None:
    card = FakeDevice("GPU-m", mig_mode=1, slices=[FakeDevice("MIG-0"), FakeDevice("MIG-1")])
    fake = make_nvml(*[FakeDevice("GPU-a"), card][:: 1 if place else -1])
    watch = listening(XidWatch())
    tell(fake, "GPU-m", 79)
    watch.wait_once(NOW_MS)
    devices = read(watch)
    for uuid in ("MIG-0", "MIG-1"):
        assert devices[uuid].health_reason == "XID 79: the GPU has fallen off the bus"
        assert devices[uuid].xids == ((79, 1),)
    assert (devices["GPU-a"].health, devices["GPU-a"].xids) == (Health.HEALTHY, ())


def test_a_device_that_does_not_answer_any_more_is_known_by_its_handle(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice("GPU-a"))
    watch = listening(XidWatch())
    fake.device("GPU-a").lost = 1
    tell(fake, "GPU-a", 79)
    assert watch.wait_once(NOW_MS)
    fake.device("GPU-a").lost = None
    fake.write()
    assert read(watch)["GPU-a"].xids == ((79, 1),)


def test_where_none_can_tell_nothing_is_made_again_and_again(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice("GPU-a", events=None))
    watch = listening(XidWatch())
    # A second set would hear of it.
    fake.device("GPU-a").events = 8
    fake.write()
    listening(watch)
    tell(fake, "GPU-a", 79)
    assert not watch.wait_once(NOW_MS)


def test_devices_that_can_tell_nothing_are_not_waited_for(make_nvml: MakeNvml) -> None:
    fake = make_nvml(FakeDevice("GPU-a", events=None), FakeDevice("GPU-b"))
    watch = listening(XidWatch())
    tell(fake, "GPU-a", 79)
    assert not watch.wait_once(NOW_MS)
    tell(fake, "GPU-b", 62)
    assert watch.wait_once(NOW_MS)
    assert read(watch)["GPU-a"].health is Health.HEALTHY


@pytest.mark.parametrize("function", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents"])
def test_a_driver_without_events_is_no_error(make_nvml: MakeNvml, function: str) -> None:
    make_nvml(FakeDevice("GPU-a"), errors={function: NOT_SUPPORTED})
    watch = XidWatch()
    assert not watch.wait_once(NOW_MS)
    assert read(watch)["GPU-a"].health is Health.HEALTHY


def test_the_thread_goes_on_when_the_driver_comes_back(
    make_nvml: MakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celeray.actors.xids.RETRY_S", 0.01)
    monkeypatch.setattr("celeray.actors.xids.WAIT_MS", 20)
    failures = [DriverLostError("gone"), DeviceLostError("gone"), ValueError("never seen")]
    waited, real = threading.Event(), XidWatch.wait_once

    def wait_once(self: XidWatch, *args: Any) -> bool:
        if failures:
            raise failures.pop()
        found = real(self, 20)
        waited.set()
        return found

    monkeypatch.setattr(XidWatch, "wait_once", wait_once)
    fake = make_nvml(FakeDevice("GPU-a"))
    watch = XidWatch()
    watch.start()
    assert waited.wait(10)
    tell(fake, "GPU-a", 79)
    for _ in range(500):
        if read(watch)["GPU-a"].health is Health.UNHEALTHY:
            break
        threading.Event().wait(0.02)
    watch.stop()
    assert watch._thread is not None
    assert not watch._thread.is_alive()
    assert read(watch)["GPU-a"].xids == ((79, 1),)


def test_a_rare_one_is_named_by_its_number() -> None:
    assert describe(7) == "XID 7"


class Times:
    """A clock that shows one second more each time."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_mark_has_its_xids_and_the_time_of_the_newest(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a"))
    watch = XidWatch(Times())
    for xid in (13, 94, 79, 94):
        watch.note("GPU-a", xid)
    assert watch.marks() == {"GPU-a": Mark((94, 79), 103.0)}
    assert read(watch)["GPU-a"].marked_at == 103.0
    assert not watch.marks()["GPU-a"].by_canary, "79 needs more than that"


def test_what_an_operator_has_looked_at_is_forgiven_and_nothing_later(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a"))
    watch = XidWatch(Times())
    watch.note("GPU-a", 79)
    looked_at = read(watch)["GPU-a"].marked_at
    assert looked_at is not None
    watch.note("GPU-a", 95)
    assert not watch.forgive("GPU-a", looked_at)
    assert read(watch)["GPU-a"].health is Health.UNHEALTHY
    assert watch.forgive("GPU-a", looked_at + 1.0)
    assert not watch.forgive("GPU-a", looked_at + 1.0)
    device = read(watch)["GPU-a"]
    assert (device.health, device.marked_at) == (Health.HEALTHY, None)
    assert device.xids == ((79, 1), (95, 1)), "counted for ever"


def test_forgiving_does_not_overrule_nvml(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-a", recovery=1))
    watch = XidWatch(Times())
    watch.note("GPU-a", 95)
    device = read(watch)["GPU-a"]
    assert device.health_reason == "the driver asks to reset the GPU"
    assert device.marked_at == 101.0
    assert watch.forgive("GPU-a", 101.0)
    assert read(watch)["GPU-a"].health is Health.UNHEALTHY


def test_a_slice_is_forgiven_by_its_card(make_nvml: MakeNvml) -> None:
    make_nvml(FakeDevice("GPU-m", mig_mode=1, slices=[FakeDevice("MIG-0")]))
    watch = XidWatch(Times())
    watch.note("GPU-m", 95)
    assert read(watch)["MIG-0"].marked_at == 101.0
    assert watch.card_of("MIG-0") == "GPU-m"
    assert watch.card_of("GPU-m") == "GPU-m"
