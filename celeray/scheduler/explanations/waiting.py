"""Why a task that a bridge holds waits. Pure: from its record and what the bridge published."""

from __future__ import annotations

from celeray.scheduler.explanations import words
from celeray.scheduler.explanations.answers import StartAnswer, WaitingAnswer
from celeray.scheduler.explanations.published import PublishedCycle
from celeray.scheduler.explanations.verdicts import Picture
from celeray.scheduler.model import Reason, ResourceRequest, WaitingTask
from celeray.scheduler.placement import CycleInput
from celeray.scheduler.placement.forecasting import Forecast, NoForecast, forecast
from celeray.scheduler.status import TaskRecord

IN_TURN = "It comes with the next placement cycle of its bridge."
NOT_YET = "Its bridge has not published it yet, or it has begun just now: ask again in a second."


def explain_waiting(record: TaskRecord, picture: Picture, now: float) -> WaitingAnswer:
    """The answer for a task whose record says that it waits in the bridge of the picture.

    Args:
        now: seconds since the epoch.
    """
    published = picture.published
    task = published.task(record.task_id)
    if task is not None:
        return _listed(record, task, picture, now)
    if any(record.task_id in tasks for tasks in picture.running.values()):
        # Its executor is a process of its own that has not begun.
        started = picture.start(Forecast(0, known=True))
        text = words.REASONS[Reason.STARTING]
        return _unlisted(record, picture, now, reason=Reason.STARTING, text=text, start=started)
    if not published.left_out:
        return _unlisted(record, picture, now, reason=None, text=NOT_YET, start=None)
    ahead = len(published.cycle.waiting)
    far = picture.start(Forecast(None, why=NoForecast.BOUND_REACHED))
    text = f"It waits behind the first {ahead} tasks of its bridge."
    found = _unlisted(record, picture, now, reason=None, text=text, start=far)
    return found.model_copy(update={"ahead": ahead, "ahead_is_least": True})


def forecast_of(published: PublishedCycle, sequences: set[int]) -> dict[int, Forecast]:
    """When tasks of a published cycle begin, by sequence number. Those whose executors fail to start get none."""
    failing = {sequence for sequence, why in published.reasons.items() if why is Reason.EXECUTOR_FAILED}
    cycle = published.cycle
    placed = CycleInput(
        tuple(task for task in cycle.waiting if task.sequence not in failing), cycle.snapshot, cycle.policy
    )
    found = forecast(placed, sequences - failing)
    stuck = Forecast(None, why=NoForecast.EXECUTOR_FAILED, reason=Reason.EXECUTOR_FAILED)
    return found | dict.fromkeys(sequences & failing, stuck)


def _listed(record: TaskRecord, task: WaitingTask, picture: Picture, now: float) -> WaitingAnswer:
    published = picture.published
    found = forecast_of(published, {task.sequence})[task.sequence]
    # What a cycle has said counts; the one that comes has looked at what is new.
    reason = published.reasons.get(task.sequence, found.reason)
    start = picture.start(found)
    ahead = next(at for at, one in enumerate(published.cycle.waiting) if one.sequence == task.sequence)
    kept = picture.reservation(task.sequence)
    said = [IN_TURN if reason is None else words.REASONS[reason], start.words]
    if kept is not None and kept.own:
        said.insert(1, f"Room is kept for it on {kept.node_name}.")
    return WaitingAnswer(
        bridge=record.hostname,
        age_s=picture.age_s(now),
        reason=reason,
        words=" ".join(said),
        priority=task.priority,
        ahead=ahead,
        start=start,
        reservation=kept,
        nodes=picture.nodes(task.request, task.executor_class),
    )


def _unlisted(
    record: TaskRecord,
    picture: Picture,
    now: float,
    *,
    reason: Reason | None,
    text: str,
    start: StartAnswer | None,
) -> WaitingAnswer:
    return WaitingAnswer(
        bridge=record.hostname,
        age_s=picture.age_s(now),
        reason=reason,
        words=text,
        priority=record.priority,
        ahead=0,
        start=start,
        reservation=picture.reservation(None),
        nodes=picture.nodes(request_of(record), None),
    )


def request_of(record: TaskRecord) -> ResourceRequest:
    """What the record says that was asked for, which is all but labels."""
    memory = record.raised_mib or record.vram_mib
    return ResourceRequest(
        gpus=record.gpus,
        memory_mib=memory if record.gpus else None,
        exclusive=record.gpus > 0 and (record.exclusive or record.vram_mib is None),
        gpu_types=record.gpu_types,
        cpus_milli=record.cpus_milli,
        host_memory_mib=record.host_memory_mib,
    )
