"""The ledger never gives out more than a device has, and a release is the inverse of a reservation."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from celeray.scheduler.accounting import Reservation
from celeray.scheduler.errors import LedgerError
from celeray.scheduler.ledger import Ledger
from celeray.scheduler.model import DeviceProcess, DeviceReading, NodeReading

TOTALS = {"GPU-a": 16_384, "GPU-b": 24_576, "GPU-c": 81_920}
HEADROOM = 256
FOREIGN_PID = 1


class LedgerMachine(RuleBasedStateMachine):
    """Reservations, deaths, readings and foreign processes in any order."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.ledger = Ledger(headroom_mib=HEADROOM)
        self.foreign = dict.fromkeys(TOTALS, 0)
        self.alive: dict[str, tuple[tuple[str, ...], int, int]] = {}
        self.numbers = iter(range(100, 1_000_000))
        self.reserved_when_granted: list[tuple[int, int]] = []
        self.read()

    @rule()
    def read(self) -> None:
        self.now += 1.0
        devices = []
        for index, (uuid, total) in enumerate(TOTALS.items()):
            processes = [DeviceProcess(pid, mib) for uuids, mib, pid in self.alive.values() if uuid in uuids]
            if self.foreign[uuid]:
                processes.append(DeviceProcess(FOREIGN_PID, self.foreign[uuid]))
            used = sum(process.used_mib or 0 for process in processes)
            devices.append(DeviceReading(uuid, index, "T", total, used, tuple(processes)))
        self.ledger.observe(NodeReading("n", "n", "", 8000, 65_536, {}, tuple(devices), self.now))

    @rule(
        uuids=st.lists(st.sampled_from(sorted(TOTALS)), min_size=1, max_size=3, unique=True),
        mib=st.integers(0, 90_000),
        exclusive=st.booleans(),
    )
    def reserve(self, uuids: list[str], mib: int, exclusive: bool) -> None:
        number = next(self.numbers)
        holder = f"e{number}"
        before = {uuid: self.ledger.account(uuid, self.now).schedulable_mib for uuid in uuids}
        with contextlib.suppress(LedgerError):
            self.ledger.reserve(Reservation(holder, "n", tuple(uuids), mib, exclusive), self.now)
            self.ledger.set_pid(holder, number)
            self.alive[holder] = (tuple(uuids), mib, number)
            assert all(mib <= before[uuid] for uuid in uuids)
            for uuid in uuids:
                assert self.ledger.account(uuid, self.now).schedulable_mib == before[uuid] - mib

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        if not self.alive:
            return
        holder = data.draw(st.sampled_from(sorted(self.alive)))
        del self.alive[holder]
        self.now += 1.0
        self.ledger.end(holder, self.now)
        entry = self.ledger.reservation(holder)
        assert entry is not None, "its room stays reserved until a later reading"
        assert entry.ended_at == self.now

    @rule(uuid=st.sampled_from(sorted(TOTALS)), mib=st.integers(0, 10_000))
    def others_use(self, uuid: str, mib: int) -> None:
        self.foreign[uuid] = mib

    @rule()
    def all_die(self) -> None:
        """Everything released: the devices are as if nothing had been."""
        for holder in list(self.alive):
            self.now += 1.0
            self.ledger.end(holder, self.now)
        self.alive.clear()
        self.read()
        for uuid, total in TOTALS.items():
            account = self.ledger.account(uuid, self.now)
            assert account.holders == ()
            assert account.schedulable_mib == max(0, total - self.foreign[uuid] - HEADROOM)

    @invariant()
    def never_over_the_device(self) -> None:
        for uuid, total in TOTALS.items():
            account = self.ledger.account(uuid, self.now)
            assert account.reserved_mib <= total - HEADROOM
            assert account.schedulable_mib >= 0
            exclusive = [
                holder
                for holder in account.holders
                if (entry := self.ledger.reservation(holder)) is not None and entry.exclusive
            ]
            assert len(account.holders) == 1 or not exclusive


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLedger = LedgerMachine.TestCase
