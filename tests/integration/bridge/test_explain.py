"""What is explained of tasks that wait in a real bridge, and what then happens to them."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from celeray.api.explained import TaskExplanation, read_explanation
from celeray.scheduler.explanations.answers import WaitingAnswer
from celeray.scheduler.explanations.published import PublishedCycles
from celeray.scheduler.explanations.reading import DryRunBody, dry_run, explain_task
from celeray.scheduler.model import Reason
from celeray.scheduler.overview import read_overview
from celeray.scheduler.settings import Settings
from celeray.scheduler.status import TaskRecord, TaskState
from celeray.scheduler.status_store import StatusStore

from .live import LiveBridge, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured, pytest.mark.timeout(300)]
SETTINGS = Settings()


def explained(store: StatusStore, task_id: str) -> TaskExplanation | None:
    return read_explanation(task_id, store, read_overview(store, SETTINGS, time.time()), None)


def is_behind(found: WaitingAnswer) -> bool:
    """It waits since both devices are taken by tasks that have begun."""
    holders = [holder for node in found.nodes for device in node.devices for holder in device.held_by]
    return found.reason is Reason.EXCLUSIVE and len(holders) == 2 and all(one.tasks for one in holders)


def ended_well(found: TaskExplanation | None) -> bool:
    assert found is not None
    return (found.state, found.words) == (TaskState.SUCCEEDED, "It ended as succeeded.")


@pytest.fixture
def shared_store(shared_bridge: LiveBridge) -> Iterator[StatusStore]:
    with redis.Redis.from_url(shared_bridge.url) as client:
        yield StatusStore(client)


def test_a_task_behind_two_that_have_a_device_each(app: Celery, shared_store: StatusStore) -> None:
    # Longer than a start takes: else the third one waits for an executor that is soon free, which is another reason.
    asked = {"resource_requirements": {"expected_s": 600}}
    wait = [app.tasks["gpu.whole"].apply_async((3.0,), headers=asked) for _ in range(3)]

    def waits() -> TaskExplanation | None:
        found = [explained(shared_store, one.id) for one in wait]
        return next((one for one in found if one and one.waiting and is_behind(one.waiting)), None)

    found = until(waits, "one of them waits for the others, and its bridge says so")
    assert found.waiting is not None
    (node,) = found.waiting.nodes
    assert {device.reason for device in node.devices} == {Reason.EXCLUSIVE}
    holders = [holder for device in node.devices for holder in device.held_by]
    assert {task for holder in holders for task in holder.tasks} <= {one.id for one in wait}
    assert "A whole device is asked for" in found.words
    body = DryRunBody(resource_requirements={"vram_gb": 30})
    bridges = shared_store.read_bridges()
    (never,) = dry_run(shared_store, bridges, SETTINGS, body, time.time()).tasks
    assert never.refusal is not None
    assert never.refusal.key == "vram_gb"
    assert [one.get(timeout=30) for one in wait]
    until(lambda: ended_well(explained(shared_store, found.task_id)), "its end is told")


KINDS: dict[str, dict[str, Any]] = {
    "small": {"vram_gb": 6},
    "half": {"vram_gb": 12},
    "large": {"vram_gb": 50},
    "alone": {"vram_gb": 60, "exclusive": True},
}
ONLY_LARGE = ("large", "alone")
"""They fit on the device of 80 GiB alone."""


@dataclass
class Sample:
    """What was said of a task, and when."""

    kind: str
    at: float
    answer: WaitingAnswer


@pytest.mark.slow
def test_what_is_said_of_a_hundred_mixed_tasks_then_happens(broker: str, tmp_path: Path) -> None:
    bridge = LiveBridge(broker, tmp_path, gpus="1x24GiB,1x80GiB", name="mixed").start()
    try:
        # A stock producer: the tests' own app remembers the devices of the bridge that other tests share.
        stock = Celery("producer", broker=broker, backend=broker, set_as_current=False)
        with redis.Redis.from_url(broker) as client, stock as producer:
            check_mixed(producer, StatusStore(client))
    finally:
        bridge.stop()


def check_mixed(app: Celery, store: StatusStore) -> None:
    until(lambda: [len(one.devices) for one in store.read_bridges()] == [2], "both devices are leased")
    chance = random.Random(11)
    kinds, results = {}, []
    for _ in range(100):
        kind, seconds = chance.choice([*KINDS]), chance.choice([0.3, 0.6])
        headers = {"resource_requirements": {**KINDS[kind], "expected_s": seconds}}
        results.append(app.send_task("gpu.sleep", (seconds,), queue="gpu.processing", headers=headers))
        kinds[results[-1].id] = kind
    samples = [taken for _ in watching(results) for taken in sampled(store, kinds)]
    assert all(result.get(timeout=10) for result in results)
    ended = {task_id: store.read_task(task_id) for task_id in kinds}
    records = {task_id: record for task_id, record in ended.items() if record is not None}
    assert len(records) == 100
    assert len(samples) > 5
    report(samples, records)
    wrong = [text for said in samples for text in mistakes(said, records)]
    assert not wrong, "\n".join(wrong)


def watching(results: list[Any]) -> Iterator[None]:
    """Twice a second until all have ended."""
    end = time.monotonic() + 200
    while not all(result.ready() for result in results):
        assert time.monotonic() < end
        yield
        time.sleep(0.5)


def sampled(store: StatusStore, kinds: dict[str, str]) -> Iterator[dict[str, Sample]]:
    """What is said of the first, the middle and the last waiting task of each kind."""
    bridges = store.read_bridges()
    published = PublishedCycles(store.client, store.keys).read([bridge.bridge_id for bridge in bridges])
    found: dict[str, Sample] = {}
    for cycle in published.values():
        for kind in KINDS:
            mine = [task.task_id for task in cycle.cycle.waiting if kinds[task.task_id] == kind]
            for task_id in dict.fromkeys([*mine[:2], *mine[len(mine) // 2 :][:1], *mine[-1:]]):
                record = store.read_task(task_id)
                if record is not None and record.state is TaskState.WAITING:
                    answer = explain_task(store, bridges, record, time.time())
                    if answer is not None and answer.start is not None and answer.nodes:
                        found[task_id] = Sample(kind, cycle.at, answer)
    if found:
        yield found


def mistakes(said: dict[str, Sample], records: dict[str, TaskRecord]) -> Iterator[str]:
    """What one round of answers said that did not happen then."""
    by_kind: dict[str, list[str]] = {}
    for task_id, sample in said.items():
        by_kind.setdefault(sample.kind, []).append(task_id)
        start = sample.answer.start
        assert start is not None
        if start.starts_in_s is None or not start.known:
            yield f"{task_id} began, and no start was foretold: {start}"
        if sample.answer.reason is None and start.starts_in_s != 0:
            yield f"{task_id} was to begin with the next cycle: {start}"
        if sample.kind in ONLY_LARGE:
            yield from mistakes_of_device(task_id, sample, records[task_id])
    for kind, alike in by_kind.items():
        # They are in the order of placement.
        happened = sorted(alike, key=lambda one: records[one].started_at or 0.0)
        if alike != happened:
            yield f"{kind} tasks, which are alike, were to begin as {alike} and began as {happened}"


def mistakes_of_device(task_id: str, sample: Sample, record: TaskRecord) -> Iterator[str]:
    """Of a task that only one of the two devices can hold."""
    verdicts = {device.uuid: device for node in sample.answer.nodes for device in node.devices}
    small, large = sorted(verdicts, key=lambda uuid: verdicts[uuid].total_mib)
    if verdicts[small].reason not in (Reason.VRAM, Reason.EXCLUSIVE):
        yield f"{task_id} can't go to {small}: {verdicts[small].reason}"
    start = sample.answer.start
    if record.device_uuids != (large,) or (start and start.device_uuids != (large,)):
        yield f"{task_id} was to go to {large}: {start}, and went to {record.device_uuids}"


def report(samples: list[dict[str, Sample]], records: dict[str, TaskRecord]) -> None:
    """Figures for people: how often the device was the foretold one, and how far the time was off."""
    right, late = [], []
    for said in samples:
        for task_id, sample in said.items():
            start, record = sample.answer.start, records[task_id]
            assert start is not None
            assert record.started_at is not None
            if start.starts_in_s is None:
                continue
            right.append(start.device_uuids == record.device_uuids)
            late.append(record.started_at - sample.at - start.starts_in_s)
    late.sort()
    print(
        f"{len(right)} answers: device as foretold {sum(right)}, start late by {late[len(late) // 2]:.2f} s (median)"
    )
