"""Waits for all channels of a connection at once. What concerns fanout is kombu's."""

from __future__ import annotations

import threading
from typing import Any

from kombu.transport import redis as kombu_redis


class LeasePoller(kombu_redis.MultiChannelPoller):
    """Unlike kombu's it never leaves a reply unread for want of credit: what is claimed must be known to be renewed."""

    loop: Any = None
    """The event loop, where there is one."""

    def on_poll_start(self) -> None:
        thread = threading.get_ident() if self.loop is not None else None
        for channel in list(self._channels):
            if channel.active_queues or "turns" in vars(channel):
                channel.turns.loop_thread = thread
                if channel.turns.wanted():
                    self._register_BRPOP(channel)
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def on_poll_init(self, poller: Any) -> None:
        self.poller = poller

    def maybe_restore_messages(self) -> None:
        """The keeper's thread does so."""

    def _update_brpop_polling(self) -> None:
        """Nothing is paused."""

    def on_readable(self, fileno: int) -> Any:
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if kind == "BRPOP":
            return channel.handlers[kind]()
        return super().on_readable(fileno)

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Without an event loop: wait for one event. Raises `queue.Empty` after `timeout` seconds at the latest."""
        if self._deliver_claimed():
            return None
        # An idle channel looks into its queues once in a while, besides being woken.
        longest = min((c.lease_options.idle_check_s for c in self._channels), default=1.0)
        return super().get(callback, longest if timeout is None else min(timeout, longest))

    def _deliver_claimed(self) -> bool:
        self._in_protected_read = True
        try:
            return any(
                channel.turns.deliver() for channel in list(self._channels) if "turns" in vars(channel)
            )
        finally:
            self._in_protected_read = False
            while self.after_read:
                self.after_read.pop()()
