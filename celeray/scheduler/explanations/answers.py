"""What is answered, as REST and `celeray explain -o json` send it. Frozen values only.

Memory is integer MiB, durations are seconds, times are seconds since the epoch. `None` means unknown, never zero.
`words` is a sentence or more for people; programs go by the other fields.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from celeray.scheduler.model import Reason
from celeray.scheduler.placement.forecasting import NoForecast
from celeray.scheduler.suspensions import Pause


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class HolderAnswer(_Frozen):
    """An executor that has room on a device."""

    executor_id: str
    executor_class: str
    memory_mib: int
    """Reserved on the device."""
    exclusive: bool
    idle: bool
    """It runs nothing, and ends where its room is needed."""
    tasks: tuple[str, ...] = ()
    """Ids of what it runs, as far as they are known."""
    ends_in_s: float | None = None
    """When those are expected to be over. None: not known, or it runs nothing."""


class DeviceAnswer(_Frozen):
    """One device."""

    uuid: str
    gpu_type: str | None
    reason: Reason | None
    """Why it can't take the task. None: it can."""
    words: str
    total_mib: int
    schedulable_mib: int
    foreign_mib: int
    reserved_for: str | None = None
    """Id of the task that room on it is kept for. None: none is kept."""
    held_by: tuple[HolderAnswer, ...] = ()


class NodeAnswer(_Frozen):
    """One node."""

    node_id: str
    name: str
    reason: Reason | None
    """Why it has no place for the task. None: it has one."""
    words: str
    could_ever: bool
    """Whether it could hold the task with nothing else on it."""
    devices: tuple[DeviceAnswer, ...] = ()


class StartAnswer(_Frozen):
    """When a task is expected to begin, and where."""

    starts_in_s: float | None
    """From the instant of the cycle that this goes by. None: that can't be said."""
    known: bool
    """Whether it rests on expected run times only, and on no guess."""
    why: NoForecast | None
    """Why there is no forecast. None: there is one."""
    words: str
    node_name: str | None = None
    device_uuids: tuple[str, ...] = ()
    executor_id: str | None = None
    """That exists already. None: a new one is started for it."""


class ReservationAnswer(_Frozen):
    """Room that a bridge keeps for the first task without a place."""

    task_id: str
    own: bool
    """It is kept for the task that was asked about."""
    node_name: str
    device_uuids: tuple[str, ...]
    starts_in_s: float | None
    """When the room is expected to be free. None: not known."""


class WaitingAnswer(_Frozen):
    """Why a task waits in its bridge."""

    bridge: str
    """Celery node name."""
    age_s: float
    """Of the bridge's cycle that this goes by."""
    reason: Reason | None
    """None: no cycle has looked at it yet, or the bridge begins it with its next one."""
    words: str
    priority: int
    ahead: int
    """Tasks that wait in the bridge and come first."""
    ahead_is_least: bool = False
    """There are more than those: the bridge publishes the first 1,000 only, and it is not among them."""
    start: StartAnswer | None
    """None: its bridge has published nothing yet that has the task in it."""
    reservation: ReservationAnswer | None = None
    nodes: tuple[NodeAnswer, ...] = ()


class Verdict(StrEnum):
    """What would become of a request."""

    START = "start"
    """The next cycle of a bridge gives it a place."""
    WAIT = "wait"
    NEVER = "never"
    """It is refused at publish, or in a bridge after `never_fits_after_s`."""
    WORKER = "worker"
    """No bridge takes it: it is for a plain Celery worker."""


class RefusalAnswer(_Frozen):
    """As the error at publish names it."""

    key: str
    value: Any
    bound: str


class RequestAnswer(_Frozen):
    """What would become of one request."""

    task: str | None
    queue: str
    priority: int
    verdict: Verdict
    words: str
    bridge: str | None = None
    """Celery node name of the bridge that would do best by it. None: no bridge takes it, or none can ever."""
    reason: Reason | None = None
    """Why it would wait, by that bridge."""
    start: StartAnswer | None = None
    refusal: RefusalAnswer | None = None
    paused: Pause | None = None
    """The queue is paused, so nothing is taken from it."""
    on_broker: int = 0
    """Messages of the queue that nobody has taken yet and that are as urgent or more: they come first, and the forecast
    does not know them."""
    nodes: tuple[NodeAnswer, ...] = ()
    """Of that bridge. Empty where several requests were asked about at once."""


class DryRun(_Frozen):
    """What would become of requests that are submitted together, in their order."""

    tasks: tuple[RequestAnswer, ...]
    bridges: int
    """That were asked."""
    age_s: float
    """Of the oldest cycle that was asked."""
