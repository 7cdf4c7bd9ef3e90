"""What an ended holder did not give back is never given out, and is found, in any order of events."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celeray.scheduler.accounting import Reservation
from celeray.scheduler.errors import LedgerError
from celeray.scheduler.leaks import LEAST_MIB
from celeray.scheduler.ledger import Ledger
from celeray.scheduler.model import DeviceProcess, DeviceReading, NodeReading

TOTAL = 81_920
HEADROOM = 256
AFTER_S = 30.0
UUID = "GPU-a"


class LeakMachine(RuleBasedStateMachine):
    """Executors use what they reserved, die, and leave some of it behind, under their pid or under none."""

    @initialize(unlisted_before=st.integers(0, 2_000))
    def begin(self, unlisted_before: int) -> None:
        self.now = 0.0
        self.ledger = Ledger(headroom_mib=HEADROOM, leak_after_s=AFTER_S)
        self.base = unlisted_before
        self.alive: dict[int, tuple[int, int]] = {}
        """Reserved and used by pid."""
        self.strangers: dict[int, int] = {}
        self.listed_dead: dict[int, int] = {}
        self.unlisted = 0
        self.numbers = iter(range(100, 1_000_000))
        self.read()

    @property
    def leaked(self) -> int:
        return sum(self.listed_dead.values()) + self.unlisted

    @rule()
    def read(self) -> None:
        self.now += 1.0
        used_by = {pid: used for pid, (_, used) in self.alive.items()} | self.strangers | self.listed_dead
        listed = tuple(DeviceProcess(pid, mib) for pid, mib in used_by.items() if mib)
        used = sum(used_by.values()) + self.unlisted + self.base
        device = DeviceReading(UUID, 0, "T", TOTAL, used, listed)
        self.ledger.observe(NodeReading("n", "n", "", 8000, 65_536, {}, (device,), self.now))

    @rule(reserved=st.integers(0, 20_000), share=st.integers(0, 100))
    def start(self, reserved: int, share: int) -> None:
        pid = next(self.numbers)
        with contextlib.suppress(LedgerError):
            self.ledger.reserve(Reservation(f"e{pid}", "n", (UUID,), reserved), self.now)
            self.ledger.set_pid(f"e{pid}", pid)
            self.alive[pid] = (reserved, reserved * share // 100)
            self.read()

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), kept=st.integers(0, 100), under_its_pid=st.booleans())
    def die(self, data: st.DataObject, kept: int, under_its_pid: bool) -> None:
        pid = data.draw(st.sampled_from(sorted(self.alive)))
        _, used = self.alive.pop(pid)
        stays = used * kept // 100
        if under_its_pid and stays:
            self.listed_dead[pid] = stays
        else:
            self.unlisted += stays
        self.now += 0.5
        self.ledger.end(f"e{pid}", self.now)

    @rule(mib=st.integers(1, 10_000))
    def stranger_comes(self, mib: int) -> None:
        self.strangers[next(self.numbers)] = mib

    @rule()
    def strangers_go(self) -> None:
        self.strangers.clear()

    @rule()
    def all_comes_back(self) -> None:
        self.listed_dead.clear()
        self.unlisted = 0
        self.read()
        assert self.ledger.leak(UUID, self.now + AFTER_S) is None, "the mark goes"

    @rule()
    def time_passes(self) -> None:
        """After a reading past the deadline, a leak is what is left, but for what is too little to tell."""
        self.read()
        self.now += AFTER_S
        self.read()
        leak = self.ledger.leak(UUID, self.now)
        found = leak.mib if leak else 0
        assert found <= self.leaked
        assert self.leaked - found <= LEAST_MIB * 40

    @invariant()
    def what_leaks_is_never_given_out(self) -> None:
        account = self.ledger.account(UUID, self.now)
        holders = sum(reserved for reserved, _ in self.alive.values())
        # Strangers come between readings, so they may not be known yet.
        assert account.schedulable_mib <= max(0, TOTAL - HEADROOM - self.leaked - self.base - holders)


LeakMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestLeaks = LeakMachine.TestCase
