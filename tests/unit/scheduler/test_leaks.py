"""Memory of ended holders that NVML still shows: when it is a leak, whose, how much, and when no longer."""

from __future__ import annotations

from celeray.scheduler.accounting import Leak, Reservation
from celeray.scheduler.leaks import HISTORY_S
from celeray.scheduler.ledger import Ledger
from celeray.scheduler.model import DeviceProcess, DeviceReading, NodeReading

GIB = 1024
TOTAL = 24 * GIB
AFTER_S = 30.0
UUID = "GPU-a"
HOLDER, CHILD, STRANGER = 10, 11, 77


class Device:
    """One device, read again and again by one ledger. Processes by pid with MiB; `unlisted` is nobody's."""

    def __init__(self, *, pids_visible: bool = True) -> None:
        self.ledger = Ledger(leak_after_s=AFTER_S)
        self.now = 100.0
        self.processes: dict[int, int] = {}
        self.parents: dict[int, tuple[int, ...]] = {}
        self.unlisted = 0
        self._visible = pids_visible
        self.read()

    def read(self, seconds: float = 1.0) -> int:
        """Take a reading a little later; what can be given out then."""
        self.now += seconds
        listed = tuple(
            DeviceProcess(pid, mib, self.parents.get(pid, ())) for pid, mib in self.processes.items()
        )
        used = sum(self.processes.values()) + self.unlisted
        device = DeviceReading(UUID, 0, "A100", TOTAL, used, listed)
        self.ledger.observe(
            NodeReading("n1", "n1", "", 8000, GIB, {}, (device,), self.now, pids_visible=self._visible)
        )
        return self.ledger.account(UUID, self.now).schedulable_mib

    def hold(
        self, holder: str = "e1", pid: int = HOLDER, *, reserved: int = 8 * GIB, used: int = 6 * GIB
    ) -> None:
        """An executor is there and uses memory."""
        self.ledger.reserve(Reservation(holder, "n1", (UUID,), reserved), self.now)
        self.ledger.set_pid(holder, pid)
        self.processes[pid] = used
        self.read()

    def end(self, holder: str = "e1", pid: int = HOLDER, *, keeps_pid: bool = False) -> None:
        """It dies; its pid goes from the list unless the driver keeps it."""
        if not keeps_pid:
            self.processes.pop(pid, None)
        self.now += 0.5
        self.ledger.end(holder, self.now)

    @property
    def leak(self) -> Leak | None:
        return self.ledger.leak(UUID, self.now)


def test_memory_that_comes_back_at_once_is_no_leak() -> None:
    device = Device()
    device.hold()
    device.end()
    assert device.read() == TOTAL
    device.read(AFTER_S)
    assert device.leak is None


def test_memory_that_nvml_lists_for_nobody_is_a_leak_after_its_time() -> None:
    device = Device()
    device.hold()
    device.end()
    device.unlisted = 6 * GIB
    died_at = device.now
    assert device.read() == TOTAL - 6 * GIB
    assert device.leak is None, "it may still come back"
    assert device.read(AFTER_S) == TOTAL - 6 * GIB, "the rest of the device stays usable"
    assert device.leak == Leak(6 * GIB, (), died_at)


def test_a_dead_pid_that_nvml_still_lists_is_named() -> None:
    device = Device()
    device.hold()
    device.end(keeps_pid=True)
    device.read(AFTER_S)
    assert device.leak is not None
    assert (device.leak.mib, device.leak.pids) == (6 * GIB, (HOLDER,))


def test_a_child_that_lives_on_is_named_and_counted_for_its_executor_before() -> None:
    device = Device()
    device.processes[CHILD], device.parents[CHILD] = 2 * GIB, (HOLDER, 1)
    device.hold()
    account = device.ledger.account(UUID, device.now)
    assert (account.measured_mib, account.foreign_mib) == (8 * GIB, 0)
    device.end()
    device.parents[CHILD] = (1,)
    assert device.read() == TOTAL - 2 * GIB
    device.read(AFTER_S)
    assert device.leak is not None
    assert (device.leak.mib, device.leak.pids) == (2 * GIB, (CHILD,))
    del device.processes[CHILD]
    assert device.read() == TOTAL
    assert device.leak is None


def test_the_mark_goes_when_the_memory_is_back_and_shrinks_before() -> None:
    device = Device()
    device.hold()
    device.end()
    device.unlisted = 6 * GIB
    device.read()
    device.read(AFTER_S)
    device.unlisted = 2 * GIB
    device.read()
    assert device.leak is not None
    assert device.leak.mib == 2 * GIB
    device.unlisted = 30
    assert device.read() == TOTAL - 30
    assert device.leak is None


def test_strangers_that_come_and_go_make_no_leak() -> None:
    device = Device()
    device.processes[STRANGER] = 4 * GIB
    device.hold()
    device.end()
    device.processes[STRANGER + 1] = 3 * GIB
    assert device.read() == TOTAL - 7 * GIB
    device.processes.pop(STRANGER)
    device.read(AFTER_S)
    assert device.leak is None


def test_a_leak_is_at_most_what_its_holder_had() -> None:
    device = Device()
    device.hold(used=1 * GIB)
    device.end()
    device.unlisted = 5 * GIB
    device.read()
    device.read(AFTER_S)
    assert device.leak is not None
    assert device.leak.mib == 1 * GIB


def test_what_was_there_before_is_not_the_holders() -> None:
    device = Device()
    device.unlisted = 5 * GIB
    device.read()
    device.hold()
    device.read(HISTORY_S)
    device.end()
    device.read()
    device.read(AFTER_S)
    assert device.leak is None


def test_readings_that_stopped_long_before_a_death_still_tell_what_was_there() -> None:
    device = Device()
    device.unlisted = 5 * GIB
    device.read()
    device.hold()
    device.read(HISTORY_S)
    device.now += 3 * HISTORY_S
    device.end()
    device.unlisted = 7 * GIB
    device.read()
    device.read(AFTER_S)
    assert device.leak is not None
    assert device.leak.mib == 2 * GIB


def test_a_death_that_readings_show_before_the_bridge_knows_of_it() -> None:
    device = Device()
    device.hold()
    device.processes.pop(HOLDER)
    device.unlisted = 6 * GIB
    device.read()
    device.read()
    device.end()
    device.read()
    device.read(AFTER_S)
    assert device.leak is not None
    assert device.leak.mib == 6 * GIB


def test_two_that_leak_are_summed_and_each_counts_once() -> None:
    device = Device()
    device.hold("e1", 10, used=3 * GIB)
    device.hold("e2", 20, used=5 * GIB)
    device.end("e1", 10)
    device.unlisted = 3 * GIB
    device.read()
    device.end("e2", 20)
    assert device.read() == TOTAL - 3 * GIB, "the second one gave its memory back"
    device.read(AFTER_S)
    assert device.leak is not None
    assert device.leak.mib == 3 * GIB


def test_two_that_end_in_one_reading() -> None:
    device = Device()
    device.hold("e1", 10, used=3 * GIB)
    device.hold("e2", 20, used=5 * GIB)
    device.end("e1", 10)
    device.end("e2", 20)
    device.unlisted = 8 * GIB
    device.read()
    device.read(AFTER_S)
    assert device.leak is not None
    assert device.leak.mib == 8 * GIB


def test_where_pids_are_of_another_namespace_what_is_listed_for_nobody_is_still_found() -> None:
    device = Device(pids_visible=False)
    device.processes[40_010] = 6 * GIB
    device.hold(pid=10, used=0)
    del device.processes[10]
    device.read()
    del device.processes[40_010]
    device.unlisted = 6 * GIB
    device.end()
    device.read()
    # Another one has reserved more than is used: what leaks is not taken for its own.
    device.ledger.reserve(Reservation("e2", "n1", (UUID,), 8 * GIB), device.now)
    assert device.read() == TOTAL - 14 * GIB
    device.read(AFTER_S)
    assert device.leak is not None
    assert (device.leak.mib, device.leak.pids) == (6 * GIB, ())


def test_what_cannot_be_read_changes_nothing() -> None:
    device = Device()
    device.hold()
    device.end()
    device.unlisted = 6 * GIB
    device.read()
    unreadable = DeviceReading(UUID, 0, "A100", None, None, None)
    device.now += AFTER_S
    device.ledger.observe(NodeReading("n1", "n1", "", 8000, GIB, {}, (unreadable,), device.now))
    assert device.leak is not None
    assert device.ledger.account(UUID, device.now).schedulable_mib == 0


def test_a_node_that_is_gone_takes_its_leaks_along() -> None:
    device = Device()
    device.hold()
    device.end()
    device.unlisted = 6 * GIB
    device.read()
    device.ledger.forget_node("n1", device.now)
    device.unlisted = 0
    assert device.read(AFTER_S) == TOTAL
    assert device.leak is None
