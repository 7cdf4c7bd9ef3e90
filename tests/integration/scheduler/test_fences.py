"""Two runs of one message, as tracer and result backend see them: which has the say, and what follows once."""

from __future__ import annotations

import gc
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery, Task, _state, chord, group, states
from celery.app.trace import build_tracer
from kombu import pools

import celeray
from celeray.scheduler.fencing import LEASE, LeaseLostError, Verdict
from celeray.scheduler.gating import gate_tasks
from celeray.scheduler.settings import Settings

# redis-py says that of what Celery calls to store a result without a fence.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

MESSAGE = "1f0c-message"
OLD, NEW = 5, 9


class Runs:
    """Runs tasks as a worker's child does, each under a fence of its own."""

    def __init__(self, url: str) -> None:
        self.app = Celery("fences", broker=url, backend=url, set_as_current=False)
        celeray.install(self.app, Settings(transport="leased"))
        self.redis: Any = redis.Redis.from_url(url)
        self.bodies: dict[int | None, Callable[[], Any]] = {}
        """What the task does, by fence."""
        self.begun: list[int | None] = []

        @self.app.task(shared=False, name="fences.work", bind=True, max_retries=3, acks_late=True)
        def work(task: Any) -> Any:
            fence = celeray.current_fence()
            self.begun.append(fence)
            return self.bodies[fence]()

        @self.app.task(shared=False, name="fences.after", bind=True)
        def after(task: Any, *_: Any) -> str:
            return str(task.request.id)

        self.work, self.after = work, after
        self.app.finalize()

    def run(
        self,
        fence: int,
        body: Callable[[], Any] = lambda: "done",
        *,
        task_id: str,
        repeat: bool = False,
        message: str = MESSAGE,
        **request: Any,
    ) -> Any:
        """Trace one run; returns what the tracer returned."""
        self.bodies[fence] = body
        task = self.work
        tracer = build_tracer(task.name, task, app=self.app)
        info = {
            "exchange": "",
            "routing_key": "cpu.analysis",
            "redelivered": repeat,
            LEASE: f"{fence}:{message}",
        }
        request = {"id": task_id, "task": task.name, "delivery_info": info, **json.loads(json.dumps(request))}
        return tracer(task_id, (), {}, request)

    def stored(self, task_id: str) -> Any:
        meta = self.app.backend._get_task_meta_for(task_id)
        return meta["status"], meta["result"]

    def published(self) -> list[str]:
        """Task ids of everything that is on the queue."""
        return [headers["id"] for headers in self.headers()]

    def headers(self) -> list[dict[str, Any]]:
        """Headers of everything that is on the queue."""
        lists = [self.redis.lrange(key, 0, -1) for key in self.redis.keys("cpu.analysis*")]
        return [json.loads(raw)["headers"] for raws in lists for raw in raws]


@pytest.fixture
def runs(redis_url: str) -> Iterator[Runs]:
    pools.reset()
    before = _state._tls.current_app
    made = Runs(redis_url)
    # What Celery makes of a group that came in a message belongs to the current app, as in a worker.
    made.app.set_current()
    yield made
    _state._set_current_app(before)
    made.redis.close()
    made.app.close()
    # Results unsubscribe when they are collected, which must not wait for the end of the server.
    gc.collect()


@pytest.fixture
def task_id() -> str:
    return str(uuid.uuid4())


def is_lost(outcome: Any) -> bool:
    """Whether the tracer's answer says that the message is another's."""
    return outcome.info is not None and isinstance(outcome.info.retval, LeaseLostError)


def test_the_zombie_ends_after_the_second_run(runs: Runs, task_id: str) -> None:
    link = [runs.after.si()]

    def zombie() -> str:
        # Stopped here, while its message is restored and run by another.
        runs.run(NEW, lambda: "new", task_id=task_id, repeat=True, callbacks=link)
        return "old"

    outcome = runs.run(OLD, zombie, task_id=task_id, callbacks=link)
    assert is_lost(outcome)
    assert runs.stored(task_id) == (states.SUCCESS, "new")
    assert len(runs.published()) == 1


def test_the_zombie_fails_after_the_second_run(runs: Runs, task_id: str) -> None:
    errbacks = [runs.after.si()]

    def zombie() -> str:
        runs.run(NEW, lambda: "new", task_id=task_id, repeat=True, errbacks=errbacks)
        raise ValueError("old")

    assert is_lost(runs.run(OLD, zombie, task_id=task_id, errbacks=errbacks))
    assert runs.stored(task_id) == (states.SUCCESS, "new")
    assert runs.published() == []


def test_the_zombie_ends_while_the_second_run_goes_on(runs: Runs, task_id: str) -> None:
    link = [runs.after.si()]
    outcomes: list[Any] = []

    def second() -> str:
        # Its own STARTED is stored, and now the first one wakes up, publishes nothing and stores nothing.
        outcomes.append(runs.run(OLD, lambda: "old", task_id=task_id, callbacks=link))
        assert runs.published() == []
        assert runs.stored(task_id)[0] == states.STARTED
        return "new"

    runs.run(NEW, second, task_id=task_id, repeat=True, callbacks=link)
    assert is_lost(outcomes[0])
    assert runs.stored(task_id) == (states.SUCCESS, "new")
    assert len(runs.published()) == 1


def test_the_zombie_ends_before_the_second_run_begins(runs: Runs, task_id: str) -> None:
    link = [runs.after.si()]
    runs.run(OLD, lambda: "old", task_id=task_id, callbacks=link)
    runs.run(NEW, lambda: "new", task_id=task_id, repeat=True, callbacks=link)
    assert runs.stored(task_id) == (states.SUCCESS, "old")
    assert len(runs.published()) == 1
    # What is complete does not run again.
    assert runs.begun == [OLD]


def test_a_completed_failure_stands(runs: Runs, task_id: str) -> None:
    def fails() -> None:
        raise ValueError("old")

    runs.run(OLD, fails, task_id=task_id, errbacks=[runs.after.si()])
    runs.run(NEW, lambda: "new", task_id=task_id, repeat=True, errbacks=[runs.after.si()])
    status, error = runs.stored(task_id)
    assert (status, str(error)) == (states.FAILURE, "old")
    assert len(runs.published()) == 1


def test_a_crash_between_the_callbacks_and_the_result(
    runs: Runs, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = {
        "callbacks": [runs.after.si(), group(runs.after.si(), runs.after.si())],
        "chain": [runs.after.si()],
    }
    with monkeypatch.context() as crash:
        crash.setattr(runs.app.backend, "mark_as_done", _die)
        with pytest.raises(SystemExit):
            runs.run(OLD, task_id=task_id, **sent)
    assert len(runs.published()) == 4
    before = sorted(runs.published())
    runs.run(NEW, task_id=task_id, repeat=True, **sent)
    assert sorted(runs.published()) == before
    assert runs.stored(task_id) == (states.SUCCESS, "done")
    assert runs.begun == [OLD, NEW]


def test_a_chord_as_a_callback_is_completed_by_the_repeat(
    runs: Runs, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = [chord([runs.after.si(), runs.after.si()], runs.after.si())]
    sent: list[str] = []
    real = runs.app.amqp.send_task_message

    def die_at_the_second(producer: Any, name: str, message: Any, **options: Any) -> Any:
        if sent:
            raise SystemExit
        sent.append(name)
        return real(producer, name, message, **options)

    with monkeypatch.context() as crash:
        crash.setattr(runs.app.amqp, "send_task_message", die_at_the_second)
        with pytest.raises(SystemExit):
            runs.run(OLD, task_id=task_id, callbacks=link)
    assert len(runs.published()) == 1
    runs.run(NEW, task_id=task_id, repeat=True, callbacks=link)
    messages = runs.headers()
    assert len(messages) == 2
    assert len({headers["group"] for headers in messages}) == 1


def test_a_chord_member_that_runs_twice_counts_once(runs: Runs, task_id: str) -> None:
    members = {number: dict(_member(runs), group_index=number) for number in (0, 1)}
    runs.app.backend.set_chord_size("the-group", 2)
    runs.run(OLD, lambda: 1, task_id=task_id, **members[0])
    runs.run(NEW, lambda: 2, task_id=task_id, repeat=True, **members[0])
    assert runs.published() == []
    runs.run(NEW + 1, lambda: 3, task_id="other", message="other-message", **members[1])
    assert runs.published() == ["the-body"]
    # Again, the crash came before the acknowledgement.
    runs.run(NEW + 2, lambda: 3, task_id="other", message="other-message", repeat=True, **members[1])
    assert runs.published() == ["the-body"]


@pytest.fixture
def dead_claimant(runs: Runs, task_id: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """The member of a chord whose process took the body's claim, and died before it published; and the claim's key."""
    backend = runs.app.backend
    backend.set_chord_size("the-group", 1)
    member = dict(_member(runs), group_index=0)
    with monkeypatch.context() as crash:
        crash.setattr(backend, "_chord_claim_extend_script", _die)
        with pytest.raises(SystemExit):
            runs.run(OLD, task_id=task_id, **member)
    return member, backend.get_key_for_group("the-group", ".c")


def test_a_chord_is_completed_when_its_claimant_died(
    runs: Runs, task_id: str, dead_claimant: tuple[dict[str, Any], str]
) -> None:
    member, claim = dead_claimant
    assert runs.published() == []
    assert runs.redis.pttl(claim) > 0
    runs.redis.pexpire(claim, 300)
    runs.run(NEW, task_id=task_id, repeat=True, **member)
    assert runs.published() == ["the-body"]


def test_the_claim_of_a_messages_earlier_run_is_taken_over_at_once(
    runs: Runs,
    task_id: str,
    dead_claimant: tuple[dict[str, Any], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    member, claim = dead_claimant
    runs.redis.pexpire(claim, 600_000)
    with monkeypatch.context() as no_wait:
        no_wait.setattr("celeray.scheduler.chord_claims.time.sleep", _die)
        runs.run(NEW, task_id=task_id, repeat=True, **member)
    assert runs.published() == ["the-body"]
    assert not runs.redis.keys("*the-group.by")


def test_a_claim_of_another_message_is_waited_for(runs: Runs, task_id: str) -> None:
    backend = runs.app.backend
    backend.set_chord_size("the-group", 1)
    claim = backend.get_key_for_group("the-group", ".c")
    runs.redis.set(claim, "token", px=300)
    runs.redis.set(backend.get_key_for_group("the-group", ".by"), "token:another-message")
    runs.run(NEW, task_id=task_id, repeat=True, **dict(_member(runs), group_index=0))
    assert runs.published() == ["the-body"]
    assert bytes(runs.redis.get(claim)) == b"done"


def test_a_process_that_is_told_to_end_while_it_publishes_a_body_loses_none(
    runs: Runs, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.app.backend.set_chord_size("the-group", 1)
    member = dict(_member(runs), group_index=0)
    with monkeypatch.context() as crash:
        crash.setattr(runs.app.amqp, "send_task_message", _die)
        with pytest.raises(SystemExit):
            runs.run(OLD, task_id=task_id, **member)
    assert runs.published() == []
    runs.run(NEW, task_id=task_id, repeat=True, **member)
    assert runs.published() == ["the-body"]


def test_a_zombie_is_no_chord_part(runs: Runs, task_id: str) -> None:
    runs.app.backend.set_chord_size("the-group", 2)
    member = dict(_member(runs), group_index=0)

    def zombie() -> int:
        runs.work.backend.check_fence(_Request(task_id, NEW))
        return 1

    assert is_lost(runs.run(OLD, zombie, task_id=task_id, **member))
    assert not runs.redis.exists(runs.app.backend.get_key_for_group("the-group", ".j"))


def test_a_retry_is_another_message_and_is_published_once(runs: Runs, task_id: str) -> None:
    def retries() -> Any:
        raise runs.work.retry(countdown=0)

    runs.run(OLD, retries, task_id=task_id)
    assert runs.stored(task_id)[0] == states.RETRY
    # A repeat of the first message has nothing left to do, before and after the retry has run.
    runs.run(NEW, retries, task_id=task_id, repeat=True)
    assert runs.published() == [task_id]
    runs.run(NEW + 1, lambda: "second try", task_id=task_id, message="retry", retries=1)
    assert runs.stored(task_id) == (states.SUCCESS, "second try")
    runs.run(NEW + 2, retries, task_id=task_id, repeat=True)
    assert runs.published() == [task_id]
    assert runs.begun == [OLD, NEW + 1]


def test_a_crash_between_the_retrys_message_and_its_state(
    runs: Runs, task_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retries() -> Any:
        raise runs.work.retry(countdown=0)

    with monkeypatch.context() as crash:
        crash.setattr(runs.app.backend, "mark_as_retry", _die)
        with pytest.raises(SystemExit):
            runs.run(OLD, retries, task_id=task_id)
    runs.run(NEW + 1, lambda: 1 / 0, task_id=task_id, message="retry", retries=1)
    assert runs.stored(task_id)[0] == states.FAILURE
    # The first message comes again, and writes over nothing that the later one has written.
    runs.run(NEW + 2, retries, task_id=task_id, repeat=True)
    assert runs.published() == [task_id]
    assert runs.stored(task_id)[0] == states.FAILURE


def test_a_zombie_can_not_retry(runs: Runs, task_id: str) -> None:
    def zombie() -> Any:
        runs.run(NEW, lambda: "new", task_id=task_id, repeat=True)
        raise runs.work.retry(countdown=0)

    assert is_lost(runs.run(OLD, zombie, task_id=task_id))
    assert runs.published() == []
    assert runs.stored(task_id) == (states.SUCCESS, "new")


def test_two_messages_of_one_id_are_two_tasks(runs: Runs, task_id: str) -> None:
    runs.run(OLD, lambda: 1 / 0, task_id=task_id)
    runs.run(NEW, lambda: "again", task_id=task_id, message="sent again by hand")
    assert runs.stored(task_id) == (states.SUCCESS, "again")


def test_a_success_of_a_worker_without_fences_stays(runs: Runs, task_id: str) -> None:
    runs.app.backend.store_result(task_id, "stock", states.SUCCESS)
    runs.run(NEW, lambda: "new", task_id=task_id)
    assert runs.stored(task_id) == (states.SUCCESS, "stock")


def test_results_live_as_long_as_celery_says(runs: Runs, task_id: str) -> None:
    runs.run(OLD, task_id=task_id)
    backend = runs.app.backend
    assert 0 < runs.redis.ttl(backend.get_key_for_task(task_id)) <= backend.expires
    assert runs.redis.ttl(f"celeray:fence:{task_id}") >= 3590
    runs.app.AsyncResult(task_id).forget()
    assert not runs.redis.keys(f"*{task_id}*")


def test_scripts_are_loaded_again(runs: Runs, task_id: str) -> None:
    runs.run(OLD, task_id=task_id)
    runs.redis.script_flush()
    runs.run(NEW, task_id="another", message="another")
    assert runs.stored("another") == (states.SUCCESS, "done")


def test_the_task_sees_its_fence_and_nothing_else_does(runs: Runs, task_id: str) -> None:
    assert celeray.current_fence() is None
    runs.run(OLD, lambda: celeray.current_fence(), task_id=task_id)
    assert runs.stored(task_id) == (states.SUCCESS, OLD)
    assert runs.app.backend.check_fence(_Request(task_id, OLD - 1)) is Verdict.LOST


def test_a_users_own_call_and_a_task_that_runs_itself(runs: Runs, task_id: str) -> None:
    class Loud(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> str:
            return f"{super().__call__(*args, **kwargs)}!"

    @runs.app.task(shared=False, name="fences.loud", base=Loud, bind=True)
    def loud(task: Any, depth: int = 2) -> str:
        return str(depth) + (task.run(depth - 1) if depth else "")

    gate_tasks(runs.app)
    gate_tasks(runs.app)
    tracer = build_tracer(loud.name, loud, app=runs.app)
    info = {LEASE: f"{OLD}:{MESSAGE}", "redelivered": True}
    tracer(task_id, (), {}, {"id": task_id, "delivery_info": info, "callbacks": [runs.after.si()]})
    assert runs.stored(task_id) == (states.SUCCESS, "210!")
    assert len(runs.published()) == 1
    assert loud(1) == "10!"


def _die(*_: Any, **__: Any) -> None:
    raise SystemExit


def _member(runs: Runs) -> dict[str, Any]:
    body = runs.after.s().set(task_id="the-body")
    return {"group": "the-group", "chord": body}


class _Request:
    """As much of a request as the fences need."""

    retries = 0

    def __init__(self, task_id: str, fence: int) -> None:
        self.id = task_id
        self.delivery_info = {LEASE: f"{fence}:{MESSAGE}"}

    def get(self, name: str) -> Any:
        return getattr(self, name, None)
