"""Whatever a history holds, the checker names exactly what was broken in it."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tests.faults.checker import check
from tests.faults.history import Record

from .test_checker import called_back, done, record, started, submitted


@dataclass(frozen=True)
class Story:
    """What happened to one acknowledged task."""

    repeats: int
    """Starts before the one that ended."""
    ends: bool
    has_callback: bool
    doubled_effect: bool
    doubled_callback: bool
    doubled_message: bool
    zombie: bool

    def tell(self, task_id: str) -> list[Record]:
        told = submitted(task_id)
        for number in range(self.repeats):
            told += started(task_id, run=f"early-{number}", fence=10 + number)
        if not self.ends:
            return told
        told += started(task_id, run="last", fence=100) + done(task_id, run="last", fence=100)
        if self.has_callback:
            told += called_back(task_id)
            told += called_back(task_id, f"{task_id}-again") if self.doubled_callback else []
        if self.doubled_effect:
            told.append(record("effect", id=task_id, run="last", fence=100))
        if self.doubled_message:
            told += started(task_id, run="other", tag=f"other-{task_id}", fence=100)
        if self.zombie:
            told.append(record("result-stored", id=task_id, run="last", fence=99))
        return told


stories = st.builds(
    Story,
    repeats=st.integers(0, 3),
    ends=st.booleans(),
    has_callback=st.booleans(),
    doubled_effect=st.booleans(),
    doubled_callback=st.booleans(),
    doubled_message=st.booleans(),
    zombie=st.booleans(),
)


def names(told: dict[str, Story], wanted: str) -> tuple[str, ...]:
    return tuple(sorted(task_id for task_id, story in told.items() if getattr(story, wanted) and story.ends))


@given(st.lists(stories, max_size=8), st.booleans())
def test_exactly_what_is_wrong_is_found(listed: list[Story], crash: bool) -> None:
    told = {f"task-{number}": story for number, story in enumerate(listed)}
    records = [record("fault", name="any", crash=crash)]
    for task_id, story in told.items():
        records += story.tell(task_id)
    found = check(records)
    assert found.acknowledged == len(told)
    assert set(found.lost) == {
        task_id if not story.ends else f"{task_id}:callback"
        for task_id, story in told.items()
        if not story.ends or not story.has_callback
    }
    assert found.doubled.get("effect", ()) == names(told, "doubled_effect")
    assert found.doubled.get("message", ()) == names(told, "doubled_message")
    assert found.zombies == names(told, "zombie")
    called = {task_id: story for task_id, story in told.items() if story.has_callback}
    assert found.doubled.get("callback", ()) == names(called, "doubled_callback")
    expected = {
        task_id: story.repeats if story.ends else story.repeats - 1 for task_id, story in told.items()
    }
    assert dict(found.repeated) == {task_id: count for task_id, count in expected.items() if count > 0}
    wrong = found.lost or found.doubled or found.zombies or (found.repeated and not crash)
    assert found.clean == (not wrong)


@given(st.lists(stories, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_the_tasks_changes_nothing(listed: list[Story], random: object) -> None:
    told = [story.tell(f"task-{number}") for number, story in enumerate(listed)]
    one = check([item for part in told for item in part])
    random.shuffle(told)  # type: ignore[attr-defined]
    assert check([item for part in told for item in part]) == one
