"""How far a claim looks past messages of limited classes. Pure.

Usually past 1,000 of a list. Where that was not all, and now and then only, a claim looks deeper: four times as deep as
the last one that found nothing, until as deep as anything is found, at most `DEEPEST`. So a class that has thousands of
messages in front of a list hides no other class behind them. After each deep look Redis has a pause from the next one
that is twenty times as long as it took, and usual claims go on meanwhile.
"""

from __future__ import annotations

from celeray.scheduler.transport.claiming import SKIPPED_MOST

DEEPEST = 16_000
"""Messages of a list; Redis takes some 50 ms for so many."""
DEEPER = 4
LOOK_PAUSE_S = 40e-6
"""After a claim that looked past messages, for each of them: Redis spends a twentieth on it."""
LOOK_PAUSE_MOST_S = 0.05
"""Before the next usual one."""


class Looking:
    """Of one channel. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.looks_again_at = float("-inf")
        """No claim before."""
        self.deep_at: float | None = None
        """When a deep look is due. None: none is wanted."""
        self._deep = DEEPER * SKIPPED_MOST
        self._rests_until = float("-inf")

    def depth(self, now: float) -> int:
        """How many messages of a list the next claim may look past."""
        return self._deep if self.deep_at is not None and now >= self.deep_at else SKIPPED_MOST

    def looked(self, now: float, depth: int, *, skipped: int, cut: bool, found: bool) -> None:
        """What a claim has seen that limited some classes. Of others nothing is learned: what is wanted stays wanted.

        Args:
            depth: what it was allowed.
            cut: that was not all.
            found: it brought messages from behind those that it looked past.
        """
        if skipped:
            self.looks_again_at = now + min(LOOK_PAUSE_MOST_S, skipped * LOOK_PAUSE_S)
        deep = depth > SKIPPED_MOST
        if deep:
            self._rests_until = now + skipped * LOOK_PAUSE_S
        if deep and cut and not found:
            self._deep = min(DEEPEST, depth * DEEPER)
        # Where nothing is as near as that: usual claims, which see what changes, ask again.
        in_vain = cut and not found and depth >= DEEPEST
        self.deep_at = max(now, self._rests_until) if cut and not in_vain else None
