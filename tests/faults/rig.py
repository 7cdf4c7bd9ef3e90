"""One side of one test: its broker, its workers, its submitters, its history, and the verdict on it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import redis

from celeray.scheduler.keys import PRIORITY_SEPARATOR, Keys
from tests.faults.application import Config
from tests.faults.checker import Findings, check
from tests.faults.effects import EffectStore
from tests.faults.history import History, in_order
from tests.faults.proxy import Proxy
from tests.faults.servers import Broker, ReplicatedBroker, until
from tests.faults.submitting import Load, Submitter
from tests.faults.watching import ResultWatcher
from tests.faults.workers import Victim, Worker

Started = TypeVar("Started", bound=Victim)
QUIET_S = 1.5
"""So long must the broker be empty and every run ended, since stock holds what it popped nowhere for a moment."""
DRAIN_DEADLINE_S = 45.0


class NotDrainedError(AssertionError):
    """Something is left that nobody works on."""


class Rig:
    """Everything that it starts it ends."""

    def __init__(
        self,
        folder: Path,
        transport: str,
        world: str,
        broker: Broker | ReplicatedBroker,
        *,
        options: dict[str, Any] | None = None,
        conf: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        queue: str | None = None,
    ) -> None:
        self.folder = folder
        self.transport = transport
        self.broker = broker
        self.history = History(folder / "history")
        self._world = world
        self._given: dict[str, Any] = {"conf": conf or {}, "settings": settings or {}}
        self._given |= {"queue": queue} if queue else {}
        self._options = options or {}
        self._ends: list[Callable[[], None]] = []
        self._watcher: ResultWatcher | None = None
        self._effects = EffectStore(world)
        self._submitters = 0
        self.shared_with_stock = False
        """Workers without celeray take from the same queue."""
        self.workers: list[Victim] = []

    @property
    def leased(self) -> bool:
        return self.transport == "leased"

    def start(self) -> Rig:
        self._ends.append(self.broker.stop)
        self.broker.start()
        self._watcher = ResultWatcher(self._world, self.history).start()
        self._ends.append(self._watcher.stop)
        return self

    def close(self) -> None:
        """End everything, the last first."""
        failures: list[BaseException] = []
        for end in [*reversed(self._ends), self._effects.close, self.history.close]:
            try:
                end()
            except Exception as error:  # noqa: BLE001 - the others must end as well
                failures.append(error)
        if failures:
            raise failures[0]

    # Actors

    def config(self, *, via: Proxy | None = None, transport: str | None = None, **options: Any) -> Config:
        """Of a worker or a submitter.

        Args:
            via: reach the broker through this proxy.
            transport: another one than the rig's.
            options: more transport options.
        """
        return Config(
            transport=transport or self.transport,
            broker=f"redis://127.0.0.1:{via.port}/0" if via else self.broker.url,
            world=self._world,
            history=str(self.history.folder),
            options={**self.broker.options, **self._options, **options},
            **self._given,
        )

    def proxy(self) -> Proxy:
        """In front of the broker."""
        assert isinstance(self.broker, Broker)
        made = Proxy(self.broker.server.port).start()
        self._ends.append(made.stop)
        return made

    def also(self, broker: Broker) -> Broker:
        """Start another server, and stop it at the end."""
        self._ends.append(broker.stop)
        return broker.start()

    def begin_worker(self, *arguments: str, config: Config | None = None, **options: Any) -> Worker:
        """Start a worker without waiting for it; it is stopped at the end."""
        name = f"worker{len(self.workers)}"
        pool = () if "-P" in arguments else ("-P", "prefork", "-c", "2")
        return self.watch(Worker(config or self.config(), self.folder, name, *pool, *arguments, **options))

    def watch(self, victim: Started) -> Started:
        """Start any process; it is stopped at the end."""
        self.workers.append(victim)
        self._ends.append(victim.stop)
        return victim.begin()

    def worker(self, *arguments: str, config: Config | None = None, **options: Any) -> Worker:
        """A worker that is ready."""
        return self.begin_worker(*arguments, config=config, **options).await_ready()

    def start_workers(self, count: int, *arguments: str, config: Config | None = None) -> list[Worker]:
        """Several at once."""
        made = [self.begin_worker(*arguments, config=config) for _ in range(count)]
        return [worker.await_ready() for worker in made]

    def submitter(self, *, config: Config | None = None, **options: Any) -> Submitter:
        """One more; each has ids of its own."""
        self._submitters += 1
        made = Submitter(config or self.config(), self.history, f"{self._submitters}", **options)
        self._ends.append(made.close)
        return made

    def load_of(self, config: Config, rate: float, seconds: float = 0.1) -> Load:
        """Load on another queue than the rig's."""
        return Load(self.submitter(config=config), rate=rate, seconds=seconds, seed=2)

    def load(self, rate: float = 20, seconds: float = 0.1, **options: Any) -> Load:
        return Load(self.submitter(), rate=rate, seconds=seconds, **options)

    def fault(self, name: str, *, crash: bool = True) -> None:
        """Note that it is done now. `crash`: a message may be started again because of it."""
        self.history.note("fault", name=name, crash=crash)

    # Looking

    def await_event(self, event: str, count: int = 1, deadline_s: float = 30.0, **facts: Any) -> list[Any]:
        """Until so many such lines are in the history."""

        def found() -> list[Any]:
            lines = [
                record
                for record in self.history.read()
                if record["event"] == event and facts.items() <= record.items()
            ]
            return lines if len(lines) >= count else []

        return list(until(found, f"{count} times {event} {facts}\n{self.logs()}", deadline_s, 0.05))

    def logs(self) -> str:
        return "\n".join(f"== {worker.name}\n{worker.tail()[-1500:]}" for worker in self.workers)

    def left(self) -> dict[str, int]:
        """What is not settled yet: messages on lists, held, or in any book of the transport; and runs that go on."""
        with self.broker.client() as client:
            sizes = sizes_of_broker(client)
            if self.shared_with_stock:
                # A stock worker that acknowledges what a killed celeray worker had begun leaves its count behind.
                unacked, *_, begun, _ = Keys().lease_book()
                sizes[begun] = sum(client.hexists(unacked, tag) for tag in client.hkeys(begun))
        return {key: size for key, size in {**sizes, "running": self._running()}.items() if size}

    def _running(self) -> int:
        """Runs that have begun, whose process lives, and which have not ended."""
        records = self.history.read()
        ended = {record["run"] for record in records if record["event"] == "end"}
        open_runs = [r for r in records if r["event"] == "start" and r["run"] not in ended]
        return sum(Path(f"/proc/{record['pid']}").exists() for record in open_runs)

    def drain(self, deadline_s: float = DRAIN_DEADLINE_S) -> None:
        """Wait until nothing is left, and stays so."""
        deadline = time.monotonic() + deadline_s
        quiet_since: float | None = None
        left: dict[str, int] = {}
        while quiet_since is None or time.monotonic() - quiet_since < QUIET_S:
            with contextlib.suppress(redis.RedisError):
                left = self.left()
                quiet_since = None if left else quiet_since or time.monotonic()
            if time.monotonic() > deadline:
                raise NotDrainedError(f"not drained within {deadline_s:g} s: {left}\n{self.logs()}")
            time.sleep(0.1)

    def findings(self, deadline_s: float = DRAIN_DEADLINE_S, *, results_expire: bool = False) -> Findings:
        """Drain, read the results back, and check.

        Args:
            results_expire: before the end of the run, so that having been stored must do.
        """
        self.drain(deadline_s)
        return self.judge(results_expire=results_expire)

    def replace_workers(self) -> None:
        """For a side whose workers hang: kill them all, and start one."""
        for worker in self.workers:
            worker.kill()
        self.worker()

    def judge(self, *, results_expire: bool = False) -> Findings:
        """Check without waiting."""
        assert self._watcher is not None
        records = self.history.read()
        if results_expire:
            for record in records:
                if record["event"] == "result-stored":
                    self.history.note("result-seen", id=record["id"], run=record["run"])
        else:
            self._watcher.read_back([record["id"] for record in records if record["event"] == "submit-ok"])
        return check(in_order([*self.history.read(), *self._effects.log()]))


def sizes_of_broker(client: Any) -> dict[str, int]:
    """Sizes of everything in the broker that stands for a message which is not settled."""
    keys = Keys()
    # Every hash and sorted set in which a message that is not settled is noted.
    books = {*keys.lease_book(), *keys.schedule()[:3], keys.limit_book()[2]}
    sizes: dict[str, int] = {}
    for raw in client.scan_iter(count=1000):
        name = raw.decode()
        kind = client.type(raw)
        if kind == b"list" and not name.startswith("celeray:"):
            queue = name.partition(PRIORITY_SEPARATOR)[0]
            sizes[queue] = sizes.get(queue, 0) + client.llen(raw)
        elif name in books:
            sizes[name] = client.hlen(raw) if kind == b"hash" else client.zcard(raw)
    return sizes
