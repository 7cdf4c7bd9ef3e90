"""One run of a message while the bridge holds it, and what the bridge does to the broker's side of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from celeray.scheduler.bridge.recorder import TaskFacts
from celeray.scheduler.fencing import Fence
from celeray.scheduler.model import Isolation, Reason, ResourceRequest, WaitingTask
from celeray.scheduler.preempted import PutBack
from celeray.scheduler.states import RUN_TRANSITIONS, RunState, transition
from celeray.scheduler.status import TaskState


class RunPort(Protocol):
    """The message's side of a run. Every method is called on the consumer thread; exactly one ends the run."""

    ran_out: bool
    """What came back is a failure, since GPU memory ran out."""

    def wanted(self) -> bool:
        """False: revoked or expired. It was announced and acknowledged then, and the run is over."""
        ...

    def payload(self) -> bytes:
        """The pickled arguments of the trace function."""
        ...

    def begun(self, key: int, at: float) -> None:
        """The task's code begins now; `key` names the run in a later request to terminate it."""
        ...

    def not_begun(self) -> None:
        """What `begun` told is taken back: the code did not run, or to no end that counts."""
        ...

    def came_back(self, payload: bytes) -> TaskState:
        """The trace function returned `payload`; returns what that means."""
        ...

    def lost(self, detail: str) -> TaskState:
        """The executor died in the run."""
        ...

    def refused(self, error: Exception) -> None:
        """The run can never be placed: it fails with the error."""
        ...

    def soft_limit(self, seconds: float) -> None:
        """The soft time limit passed; the executor raises it in the task itself."""
        ...

    def hard_limit(self, seconds: float) -> None:
        """The hard time limit passed; the executor is being killed."""
        ...

    def lease_lost(self) -> None:
        """The message is, or may soon be, somebody else's: forget it, and tell nobody."""
        ...

    def give_back(self) -> None:
        """Put the message back on its queue, in front, uncounted."""
        ...

    def put_back(self, mark: PutBack) -> None:
        """As `give_back`, of a message whose run was ended for an urgent task: it tells of that from now on."""
        ...

    def give_back_with(self, others: Sequence[RunPort]) -> None:
        """As `give_back`, of several messages in one step, so that they keep their order. What it raises, it undid."""
        ...

    def superseded(self) -> None:
        """The broker delivered the message again; the run goes on, and the later delivery is told of its end."""
        ...


@dataclass(slots=True, eq=False, weakref_slot=True)
class Run:
    """A message's run in this bridge. Celery keeps a weak reference to it as the pool's apply result."""

    run_id: int
    name: str
    queue: str
    task: WaitingTask
    port: RunPort
    facts: TaskFacts
    recheck: Callable[[Run], None]
    """Called when Celery wants the run to end."""
    retries: int = 0
    """Of the message: another delivery with another number is another message."""
    fence: Fence | None = None
    """On the leased transport."""
    soft_limit_s: float | None = None
    hard_limit_s: float | None = None
    level: int = 0
    """Of the list that its message was taken from; 0 is served first."""
    message_class: str = ""
    """As its message says it, which its shape may not: see celeray/scheduler/message_class.py."""
    batchable: bool = False
    """The message allows that it begins together with others: acknowledged late, and delivered for the first time."""
    acknowledges_early: bool = False
    """Its message is acknowledged when it begins: nobody else can run it from then on."""
    preemptible: bool = False
    """It may be ended and put back for an urgent task, and was not the time before."""
    ended_for: str | None = None
    """Id of the urgent task for which its executor is being killed. None: it is not."""
    ran_out: int = 0
    """How often its GPU memory ran out, so that it waits for more."""
    larger: ResourceRequest | None = None
    """What it asks for next, should the memory run out where it is placed. None: that is the task's failure."""
    alone: bool = False
    """It was in a batch whose executor died, and may be why."""
    state: RunState = RunState.WAITING
    executor_id: str | None = None
    key: int | None = None
    reason: Reason | None = None
    order: tuple[int, int, int] = (0, 0, 0)
    """Among waiting runs; see placement/order.py."""
    overtaken: int = 0
    """How often, up to when it last stopped waiting."""
    overtaken_before: int = 0
    """While it waits: the count of its like when it began to, less its own."""
    shape: tuple[str, ResourceRequest, str | None] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = (self.task.executor_class, self.task.request, self.task.tenant)

    @property
    def task_id(self) -> str:
        return self.task.task_id

    @property
    def request(self) -> ResourceRequest:
        return self.task.request

    @property
    def peak_mib(self) -> int | None:
        """Most VRAM that it was seen to use on one device: known before its port is told of the end. None: not known.

        Who has Celery's request finds the run by `request._apply_result()`, a weak reference.
        """
        return None if self.facts.peak is None else self.facts.peak.mib

    @property
    def may_share_a_call(self) -> bool:
        """Whether it may go to an executor together with others."""
        limited = self.soft_limit_s or self.hard_limit_s
        return self.batchable and not self.alone and not limited and self.request.isolation is Isolation.WARM

    @property
    def stays(self) -> bool:
        """Whether this bridge alone can still run it, though it waits: there is no message to give back."""
        return self.acknowledges_early and self.ran_out > 0

    def task_with_expected(self, expected_ms: int | None) -> WaitingTask:
        """The task, with how long it is expected to run by now where that was not known when it came."""
        if expected_ms is None or self.task.expected_ms is not None:
            return self.task
        return replace(self.task, expected_ms=expected_ms)

    def ask(self, request: ResourceRequest, executor_class: str) -> None:
        """Ask for something else from now on. Not while it waits, since it is filed by its shape then."""
        self.task = replace(self.task, request=request, executor_class=executor_class)
        self.shape = (executor_class, request, self.task.tenant)

    def move(self, state: RunState) -> None:
        """Go to the next state.

        Raises:
            ValueError: the table of transitions has no such step.
        """
        self.state = transition(RUN_TRANSITIONS, self.state, state)

    def terminate(self, signum: int) -> None:
        """Called by `Request.terminate` and `Request.cancel`, besides the pool's `terminate_job`."""
        self.recheck(self)
