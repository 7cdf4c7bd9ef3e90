"""Names of what follows from a run: the same whenever its message runs, and never those of another message."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery import Celery, chain, chord, group

from celeray.scheduler.fencing import LEASE, Fence, fence_of
from celeray.scheduler.once import Once, chord_messages, failure_messages, once, scope_of, success_messages

app = Celery("once", set_as_current=False)


@app.task(shared=False, name="once.task")
def task() -> None: ...


def request(message: str = "m", fence: int = 5, **options: Any) -> Any:
    nothing = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    made = SimpleNamespace(**nothing | options, delivery_info={LEASE: f"{fence}:{message}"})
    made.get = lambda name: getattr(made, name)
    return made


def canvas() -> list[Any]:
    header = group(task.si(), task.si(), app=app)
    return [task.si(), chain(task.si(), header, app=app), chord([task.si()], task.si(), app=app)]


def test_a_repeat_publishes_the_same_ids() -> None:
    first, second = (
        success_messages(request(callbacks=canvas())),
        success_messages(request(fence=9, callbacks=canvas())),
    )
    assert first == second
    assert first is not None
    assert len(first.task_ids) >= 8


def test_another_message_publishes_others() -> None:
    first, second = (
        success_messages(request(callbacks=canvas())),
        success_messages(request("other", callbacks=canvas())),
    )
    assert first is not None
    assert second is not None
    assert not first.task_ids & second.task_ids


def test_ids_that_are_given_stay() -> None:
    steps = [task.si().set(task_id="last"), task.si().set(task_id="next")]
    found = success_messages(request(chain=steps))
    assert found == Once("m", frozenset({"next"}))
    assert failure_messages(request(errbacks=[task.si().set(task_id="failed")])) == Once(
        "m", frozenset({"failed"})
    )
    assert chord_messages(request(chord=task.si().set(task_id="body")), "chord:g:1") == Once(
        "chord:g:1", frozenset({"body"})
    )


def test_without_a_fence_nothing_is_named() -> None:
    plain = request(callbacks=[{"options": {}}])
    plain.delivery_info = {}
    assert success_messages(plain) is None
    assert failure_messages(plain) is None
    assert plain.callbacks == [{"options": {}}]


def test_only_what_follows_from_the_run_has_a_scope() -> None:
    running = SimpleNamespace(celeray_once=Once("m", frozenset({"a"})))
    assert scope_of("a", running) == "m"
    assert scope_of("b", running) is None
    assert scope_of("a", None) is None
    with once(Once("chord", frozenset({"a", "b"}))):
        assert scope_of("a", running) == "chord"
        assert scope_of("b", None) == "chord"
    assert scope_of("b", None) is None


def test_a_fence_is_read_from_the_requests_own_part() -> None:
    assert fence_of({"delivery_info": {LEASE: "1790000000000000:tag#7:x"}}) == Fence(
        1790000000000000, "tag#7:x"
    )
    for without in (None, {}, {"delivery_info": None}, {"delivery_info": {}}, {"delivery_info": {LEASE: 5}}):
        assert fence_of(without) is None
