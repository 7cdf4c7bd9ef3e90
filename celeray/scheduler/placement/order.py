"""Who comes first.

Waiting tasks rise by one priority in `aging_ms`, up to 9, so that nothing waits for ever behind a stream of what is a
little more urgent; 10 stays before all of it. Since all rise at the same pace, the order of two tasks never changes
while they wait: a task of priority p that came at t is where one of priority 9 would be that came at
t + (9 - p) * aging_ms.

A task for which runs were ended (`preempting`) comes before all of them: the room was made for it, and not for what
has grown old beside it.
"""

from __future__ import annotations

from celeray.scheduler.model import WaitingTask
from celeray.scheduler.placement.policy import Order

AGED_MOST = 9
"""Aging stops here."""


def order_key(task: WaitingTask, order: Order) -> tuple[int, int, int]:
    """Sorts waiting tasks, first to be placed first. The same for a task as long as it waits."""
    if task.first:
        return (-1, 0, task.sequence)
    if not order.aging_ms:
        return (0, -task.priority, task.sequence)
    if task.priority > AGED_MOST:
        return (0, task.arrived_ms, task.sequence)
    return (1, task.arrived_ms + (AGED_MOST - task.priority) * order.aging_ms, task.sequence)
