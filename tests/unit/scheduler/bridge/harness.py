"""A dispatcher on a fake cluster with a manual clock, and runs whose message side only notes what it is told."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from celeray.scheduler.bridge.batching import SHORT_IN_A_ROW
from celeray.scheduler.bridge.dispatcher import Dispatcher
from celeray.scheduler.bridge.executors import executor_class
from celeray.scheduler.bridge.fake_cluster import FakeCluster
from celeray.scheduler.bridge.fleet import ExecutorLimits
from celeray.scheduler.bridge.recorder import Recorder
from celeray.scheduler.bridge.run import Run, RunPort
from celeray.scheduler.bridge.upkeep import Upkeep
from celeray.scheduler.clock import ManualClock
from celeray.scheduler.cluster import AppSpec
from celeray.scheduler.errors import NeverFitsError, RequirementError
from celeray.scheduler.model import ResourceRequest, WaitingTask
from celeray.scheduler.preempted import PutBack
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import TaskState

GIB = 1024
APP = AppSpec("proj.app", "/", "gpu@host")


@dataclass
class NotedPort:
    """Implements `RunPort`."""

    told: list[Any] = field(default_factory=list)
    is_wanted: bool = True
    payload_error: Exception | None = None
    lost_error: Exception | None = None
    begun_error: Exception | None = None
    ran_out: bool = False

    def wanted(self) -> bool:
        return self.is_wanted

    def payload(self) -> bytes:
        if self.payload_error:
            raise self.payload_error
        return b"payload"

    def begun(self, key: int, at: float) -> None:
        self.told.append(("begun", key))
        if self.begun_error:
            raise self.begun_error

    def not_begun(self) -> None:
        self.told.append(("not_begun",))

    def came_back(self, payload: bytes) -> TaskState:
        failed, retval, _ = pickle.loads(payload)
        self.told.append(("failed" if failed else "succeeded", retval))
        return TaskState.FAILED if failed else TaskState.SUCCEEDED

    def lost(self, detail: str) -> TaskState:
        self.told.append(("lost", detail))
        if self.lost_error:
            raise self.lost_error
        return TaskState.LOST

    def refused(self, error: Exception) -> None:
        self.told.append(("refused", str(error)))

    def soft_limit(self, seconds: float) -> None:
        self.told.append(("soft_limit", seconds))

    def hard_limit(self, seconds: float) -> None:
        self.told.append(("hard_limit", seconds))

    def give_back(self) -> None:
        self.told.append(("give_back",))

    def give_back_with(self, others: Sequence[RunPort]) -> None:
        for message in (self, *others):
            message.give_back()

    def put_back(self, mark: PutBack) -> None:
        self.told.append(("put_back", mark.for_task))

    def lease_lost(self) -> None:
        self.told.append(("lease_lost",))

    def superseded(self) -> None:
        self.told.append(("superseded",))

    @property
    def words(self) -> list[str]:
        return [entry[0] for entry in self.told]


class Harness:
    """What the pool does, without Celery."""

    def __init__(
        self,
        nodes: dict[str, list[tuple[str, str, int]]] | None = None,
        *,
        limits: ExecutorLimits | None = None,
        cpus: int = 8,
        others: bool = False,
        up: bool = True,
        **settings: Any,
    ) -> None:
        self.clock = ManualClock()
        self.settings = Settings.load(**settings)
        self.cluster = FakeCluster(nodes or {"n1": [("GPU-a", "A100", 24 * GIB)]}, cpus=cpus)
        self.recorder = Recorder()
        self.events: deque[Any] = deque()
        self.dispatcher = Dispatcher(
            self.cluster, self.settings, APP, clock=self.clock, recorder=self.recorder, limits=limits
        )
        self.others = others
        self.upkeep = Upkeep(self.dispatcher, self.settings, self._refusal)
        self.cluster.start(self.events.append)
        self._sequence = 0
        if up:
            self.cluster.up(self.clock.monotonic())
            self.step()

    def _refusal(self, request: ResourceRequest) -> RequirementError | None:
        return None if self.others else NeverFitsError("vram_gb", request.memory_mib, "too large")

    def step(self) -> None:
        """One wake-up: all events, then one cycle."""
        while self.events:
            self.dispatcher.handle(self.events.popleft())
        self.dispatcher.run_due()
        self.dispatcher.cycle()

    def advance(self, seconds: float) -> None:
        """Time passes, the nodes are read, and the bridge looks after what is due."""
        self.step()
        self.clock.advance(seconds)
        self.cluster.read_all(self.clock.monotonic())
        self.upkeep.run_once(self.clock.monotonic())
        self.step()

    def submit(
        self,
        name: str = "film.generate",
        gib: int | None = 8,
        *,
        request: ResourceRequest | None = None,
        priority: int = 5,
        soft: float | None = None,
        hard: float | None = None,
        batchable: bool = False,
        tenant: str | None = None,
        preemptible: bool = False,
    ) -> Run:
        """A message arrives. It is placed in the next step."""
        self._sequence += 1
        memory = None if gib is None else gib * GIB
        asked = request or ResourceRequest(gpus=1, memory_mib=memory, exclusive=gib is None)
        task_id = f"t{self._sequence}"
        facts = self.recorder.received(task_id, name, "gpu.generation", priority, asked, self.clock.time())
        run = Run(
            run_id=self._sequence,
            name=name,
            queue="gpu.generation",
            task=WaitingTask(
                task_id,
                executor_class(name, asked),
                asked,
                priority,
                self._sequence,
                round(self.dispatcher.now() * 1000),
                asked.expected_ms or self.dispatcher.times.expected.expected_ms(name),
                tenant=tenant,
            ),
            port=NotedPort(),
            facts=facts,
            recheck=self.dispatcher.recheck,
            soft_limit_s=soft,
            hard_limit_s=hard,
            batchable=batchable,
            preemptible=preemptible,
        )
        self.dispatcher.submit(run)
        return run

    def learn(self, seconds: float, name: str = "film.generate", gib: int = 8) -> str:
        """Let a run of the task end that took so long, as many before it; returns its executor, which is idle then."""
        run = self.submit(name, gib)
        self.step()
        executor_id = run.executor_id or self.begin(run)
        self.know(run, seconds)
        self.cluster.finish(executor_id, seconds=seconds)
        self.step()
        return executor_id

    def know(self, run: Run, seconds: float) -> None:
        """As if many runs of the same task had taken so long before."""
        for _ in range(SHORT_IN_A_ROW):
            self.dispatcher.times.learn(run.task.executor_class, run.name, seconds)

    def batch(self, executor_id: str) -> list[int]:
        """Numbers of the runs that the executor has."""
        return [run.run_id for run in self.cluster.executors[executor_id].runs]

    def begin(self, run: Run) -> str:
        """Bring a submitted run to its begin on a new executor, and return the executor's id."""
        self.step()
        self.cluster.start_all()
        self.step()
        assert run.executor_id is not None
        return run.executor_id


def port(run: Run) -> NotedPort:
    """The run's message side."""
    assert isinstance(run.port, NotedPort)
    return run.port
