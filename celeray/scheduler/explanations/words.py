"""One sentence for each reason and each missing forecast. docs/architecture.md says what helps. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from celeray.scheduler.model import Reason
from celeray.scheduler.placement.forecasting import NoForecast

HAS_ROOM = "It has room."

REASONS: Mapping[Reason, str] = {
    Reason.CLUSTER_DOWN: "Ray can't be reached, or no node has been read yet.",
    Reason.NEVER_FITS: "No node of the cluster could hold it even when idle.",
    Reason.GPU_TYPE: "It has no device of a type that is accepted.",
    Reason.LABELS: "It does not have all the labels that are asked for.",
    Reason.UNUSABLE: "What would do is drained, unhealthy, lost or unreadable.",
    Reason.EXCLUSIVE: "A whole device is asked for and it is shared or has foreign memory on it, or it is held whole.",
    Reason.VRAM: "Not enough of its memory is left now.",
    Reason.DEVICES: "It has fewer devices than are asked for on one node.",
    Reason.CPUS: "The devices would do, and the node's CPUs are booked.",
    Reason.HOST_MEMORY: "The devices would do, and the node's memory is booked.",
    Reason.WARM: "Idle executors that started a short while ago hold the room, and tasks of their class wait.",
    Reason.BUSY: "An executor of its class is expected to be free before a new one would be up.",
    Reason.RESERVED: "There is room, and it is kept for a task that comes first.",
    Reason.RECLAIMING: "The room is there once executors that are ending have given it back.",
    Reason.STARTING: "Its executor is starting, or as many are starting on the node as may at once.",
    Reason.EXECUTOR_FAILED: "Executors of its class do not start; the next try comes after a backoff.",
}
"""Of a task, a node or a device alike."""

NO_FORECAST: Mapping[NoForecast, str] = {
    NoForecast.NEVER_FITS: "It does not start unless the cluster grows.",
    NoForecast.UNKNOWN_RUN_TIMES: "When it starts is not known, since the run times of those before it are not.",
    NoForecast.NOTHING_ENDS: "Nothing that is expected to end makes room for it.",
    NoForecast.BOUND_REACHED: "It starts too far from now to be foretold.",
    NoForecast.EXECUTOR_FAILED: "It starts when executors of its class do.",
}


def of_reason(reason: Reason | None) -> str:
    """The sentence; of None, that there is room."""
    return HAS_ROOM if reason is None else REASONS[reason]


def of_start(starts_in_s: float, known: bool) -> str:
    """When it starts, in words."""
    if starts_in_s == 0:
        return "It is expected to start now."
    guess = "" if known else ", where a run time that is not known was taken to be `unknown_run_s`"
    return f"It is expected to start in about {duration(starts_in_s)}{guess}."


def duration(seconds: float) -> str:
    """As `12 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
