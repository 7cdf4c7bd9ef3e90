"""The ledger's rule, device by device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celeray.scheduler.accounting import Reservation
from celeray.scheduler.errors import LedgerError
from celeray.scheduler.ledger import Ledger
from celeray.scheduler.model import DeviceProcess, DeviceReading, Health, NodeReading
from celeray.scheduler.standing import Drained
from celeray.scheduler.suspensions import Drain

GIB = 1024


def device(
    uuid: str = "GPU-a",
    *,
    total: int | None = 24 * GIB,
    used: int | None = 0,
    processes: tuple[DeviceProcess, ...] | None = (),
    health: Health = Health.UNKNOWN,
    index: int = 0,
) -> DeviceReading:
    return DeviceReading(uuid, index, "A100", total, used, processes, health=health)


def node(
    *devices: DeviceReading, at: float = 0.0, node_id: str = "n1", pids_visible: bool = True
) -> NodeReading:
    return NodeReading(
        node_id, node_id, "127.0.0.1", 8000, 64 * GIB, {}, devices, requested_at=at, pids_visible=pids_visible
    )


def reserve(ledger: Ledger, holder: str, mib: int, *uuids: str, now: float = 0.0, **extra: object) -> None:
    ledger.reserve(Reservation(holder, "n1", uuids or ("GPU-a",), mib, **extra), now)  # type: ignore[arg-type]


def room(ledger: Ledger, uuid: str = "GPU-a", now: float = 0.0) -> int:
    return ledger.account(uuid, now).schedulable_mib


def test_what_others_use_is_foreign() -> None:
    ledger = Ledger(headroom_mib=512)
    ledger.observe(node(device(used=4 * GIB, processes=(DeviceProcess(77, 4 * GIB),))))
    account = ledger.account("GPU-a", 0.0)
    assert account.foreign_mib == 4 * GIB
    assert account.schedulable_mib == 20 * GIB - 512


def test_a_holder_counts_with_the_larger_of_reserved_and_measured() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    reserve(ledger, "e1", 8 * GIB)
    ledger.set_pid("e1", 10)
    assert room(ledger) == 16 * GIB
    ledger.observe(node(device(used=2 * GIB, processes=(DeviceProcess(10, 2 * GIB),)), at=1.0))
    assert room(ledger, now=1.0) == 16 * GIB
    ledger.observe(node(device(used=10 * GIB, processes=(DeviceProcess(10, 10 * GIB),)), at=2.0))
    assert room(ledger, now=2.0) == 14 * GIB
    assert ledger.account("GPU-a", 2.0).foreign_mib == 0


@pytest.mark.parametrize("reading", [device(used=None), device(total=None)])
def test_what_cannot_be_read_never_counts_as_free(reading: DeviceReading) -> None:
    ledger = Ledger()
    ledger.observe(node(reading))
    assert room(ledger) == 0


def test_a_process_with_unknown_use_is_attributed_by_reservation() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    reserve(ledger, "e1", 8 * GIB)
    ledger.set_pid("e1", 10)
    ledger.observe(node(device(used=6 * GIB, processes=(DeviceProcess(10, None),)), at=1.0))
    assert ledger.account("GPU-a", 1.0).foreign_mib == 0
    ledger.observe(node(device(used=9 * GIB, processes=(DeviceProcess(10, None),)), at=2.0))
    assert ledger.account("GPU-a", 2.0).foreign_mib == 1 * GIB


def test_host_pids_in_a_container_are_attributed_by_reservation() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    reserve(ledger, "e1", 8 * GIB)
    ledger.set_pid("e1", 10)
    hidden = device(used=8 * GIB, processes=(DeviceProcess(40_010, 8 * GIB),))
    ledger.observe(node(hidden, at=1.0, pids_visible=False))
    assert ledger.account("GPU-a", 1.0).foreign_mib == 0
    assert room(ledger, now=1.0) == 16 * GIB


def test_an_old_reading_gives_nothing_out() -> None:
    ledger = Ledger(reading_max_age_s=15.0)
    ledger.observe(node(device(), at=100.0))
    assert room(ledger, now=115.0) == 24 * GIB
    assert room(ledger, now=115.1) == 0
    assert ledger.nodes(115.1)[0].devices[0].schedulable_mib == 0


def test_a_late_reading_does_not_replace_a_newer_one() -> None:
    ledger = Ledger()
    ledger.observe(node(device(used=5 * GIB), at=2.0))
    ledger.observe(node(device(used=0), at=1.0))
    assert room(ledger, now=2.0) == 19 * GIB


def test_memory_of_an_ended_holder_comes_back_only_when_nvml_shows_it() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    reserve(ledger, "e1", 8 * GIB)
    ledger.set_pid("e1", 10)
    used = device(used=8 * GIB, processes=(DeviceProcess(10, 8 * GIB),))
    ledger.observe(node(used, at=1.0))
    ledger.end("e1", at=2.0)
    assert room(ledger, now=2.0) == 16 * GIB, "its death alone gives nothing back"
    assert ledger.observe(node(used, at=1.5)) == (), "a reading from before its death says nothing"
    assert ledger.observe(node(used, at=3.0)) == ("e1",)
    assert room(ledger, now=3.0) == 16 * GIB, "what the driver still holds is foreign now"
    ledger.observe(node(device(), at=4.0))
    assert room(ledger, now=4.0) == 24 * GIB


def test_a_holder_without_devices_is_released_at_once() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    ledger.reserve(Reservation("e1", "n1", host_memory_mib=10 * GIB), 0.0)
    ledger.book_cpus("e1", "n1", 3000)
    assert ledger.nodes(0.0)[0].memory_free_mib == 54 * GIB
    ledger.end("e1", 1.0)
    assert ledger.holders == ()
    assert ledger.nodes(0.0)[0].memory_free_mib == 64 * GIB
    assert ledger.nodes(0.0)[0].cpus_free_milli == 8000


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Reservation("e2", "n1", ("GPU-a",), 17 * GIB), "17408 MiB asked on GPU-a, 16384 schedulable"),
        (Reservation("e1", "n1", ("GPU-a",), 1), "has a reservation already"),
        (Reservation("e2", "n9", (), 0), "node n9 is unknown"),
        (Reservation("e2", "n1", ("GPU-z",), 1), "GPU-z is not on node n1"),
        (Reservation("e2", "n1", ("GPU-a", "GPU-a"), 1), "names a device twice"),
        (Reservation("e2", "n1", ("GPU-a",), 1, exclusive=True), "is held by"),
        (
            Reservation("e2", "n1", (), 0, host_memory_mib=65 * GIB),
            "66560 MiB of host memory asked, 65536 free",
        ),
        (Reservation("e2", "n1", ("GPU-a",), -1), "negative"),
    ],
)
def test_refused_reservations_name_what_is_wrong(wanted: Reservation, message: str) -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    reserve(ledger, "e1", 8 * GIB)
    with pytest.raises(LedgerError, match=message):
        ledger.reserve(wanted, 0.0)
    assert ledger.holders == ("e1",)


def test_nobody_shares_an_exclusive_device() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    reserve(ledger, "e1", 24 * GIB, exclusive=True)
    with pytest.raises(LedgerError, match="is held by"):
        reserve(ledger, "e2", 0)


def test_cpus_are_booked_per_node() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    ledger.book_cpus("e1", "n1", 8000)
    with pytest.raises(LedgerError, match="1 milli-CPUs asked on n1, 0 free"):
        ledger.book_cpus("e2", "n1", 1)
    with pytest.raises(LedgerError, match="has booked 8000"):
        ledger.book_cpus("e1", "n1", 0)
    ledger.unbook_cpus("e1")
    ledger.unbook_cpus("e1")
    ledger.book_cpus("e2", "n1", 8000)


def test_devices_are_known_by_uuid_when_their_numbers_change() -> None:
    ledger = Ledger()
    ledger.observe(node(device("GPU-a", index=0), device("GPU-b", index=1)))
    reserve(ledger, "e1", 20 * GIB, "GPU-a")
    ledger.observe(node(device("GPU-b", index=0), device("GPU-a", index=1), at=1.0))
    assert room(ledger, "GPU-a", 1.0) == 4 * GIB
    assert room(ledger, "GPU-b", 1.0) == 24 * GIB


def test_a_lost_node_takes_its_holders_along() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    reserve(ledger, "e1", 8 * GIB)
    assert ledger.forget_node("n1", 0.0) == ("e1",)
    assert ledger.nodes(0.0) == ()
    assert ledger.holders == ()
    with pytest.raises(KeyError):
        ledger.account("GPU-a", 0.0)


def test_placement_sees_health_draining_starts_and_what_comes_back() -> None:
    ledger = Ledger(start_concurrency=2)
    ledger.observe(node(device("GPU-a"), device("GPU-b", health=Health.UNHEALTHY)))
    ledger.drained = Drained(nodes={"n1": Drain(by="ops@h", at=1.0, why="fan")})
    reserve(ledger, "e1", 8 * GIB)
    ledger.set_ending("e1")
    (state,) = ledger.nodes(0.0, starting=["n1"])
    assert state.draining
    assert state.starts_free == 1
    assert [entry.usable for entry in state.devices] == [False, False]
    assert (state.devices[0].reclaiming_mib, state.devices[0].reclaiming_holders) == (8 * GIB, 1)
    ledger.drained = Drained()
    assert not ledger.nodes(0.0)[0].draining
    assert [entry.usable for entry in ledger.nodes(0.0)[0].devices] == [True, False]
    ledger.clear(0.0)
    assert ledger.readings() == ()


def test_a_lost_node_is_remembered_for_five_minutes_or_until_it_is_back() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    ledger.forget_node("n1", 10.0)
    (absent,) = ledger.absent(309.0)
    assert [entry.total_mib for entry in absent.devices] == [24 * GIB]
    assert ledger.absent(311.0) == ()
    ledger.observe(node(device(), at=20.0))
    assert ledger.absent(20.0) == ()


def test_devices_that_are_not_leased_are_shown_as_unknown() -> None:
    ledger = Ledger()
    ledger.observe(replace(node(device()), unleased=2))
    states = ledger.nodes(0.0)[0].devices
    assert [(entry.total_mib, entry.usable) for entry in states] == [(24 * GIB, True), (0, False), (0, False)]


def test_more_foreign_memory_than_room_is_an_overrun() -> None:
    ledger = Ledger()
    ledger.observe(node(device()))
    reserve(ledger, "e1", 20 * GIB)
    ledger.observe(node(device(used=6 * GIB, processes=(DeviceProcess(77, 6 * GIB),)), at=1.0))
    assert ledger.nodes(1.0)[0].devices[0].overrun_mib == 2 * GIB
