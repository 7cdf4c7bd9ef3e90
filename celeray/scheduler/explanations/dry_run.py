"""What would become of requests, without submitting them: the verdict of the bridge that would do best by each.

The requests are asked about together, as a batch that comes now, behind what waits. Every bridge is asked as if it got
all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from celeray.scheduler import priorities, requests
from celeray.scheduler.bridge.capacity_exchange import too_large
from celeray.scheduler.bridge.executors import executor_class
from celeray.scheduler.capacity import ClusterCapacity, DeviceCapacity, NodeCapacity, could_ever_fit
from celeray.scheduler.errors import FlagError, RequirementError
from celeray.scheduler.explanations import words
from celeray.scheduler.explanations.answers import RefusalAnswer, RequestAnswer, Verdict
from celeray.scheduler.explanations.verdicts import Picture
from celeray.scheduler.explanations.waiting import forecast_of
from celeray.scheduler.model import NodeState, Reason, ResourceRequest, WaitingTask
from celeray.scheduler.placement.forecasting import Forecast, NoForecast
from celeray.scheduler.routing import TaskRouter
from celeray.scheduler.suspensions import Pause

WOULD_START = "The next placement cycle gives it a place."
FOR_A_WORKER = "No bridge takes from its queue, or it asks for no device: a Celery worker runs it."


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, understood."""

    task: str | None
    queue: str
    priority: int
    request: ResourceRequest
    bridged: bool
    """A bridge runs it, and no plain worker."""


@dataclass(frozen=True, slots=True)
class Queued:
    """What is known of a queue."""

    depths: Mapping[int, int]
    """Messages on the broker by priority."""
    paused: Pause | None = None


def understood(
    router: TaskRouter,
    *,
    resource_requirements: Mapping[str, Any] | None,
    queue: str | None,
    task: str | None,
    priority: int | None,
) -> Asked:
    """What a call with these would ask for, with its queue's default beneath it.

    The requirements that the task's own code declares are not known here.

    Raises:
        RequirementError: a requirement, or the priority, can't be understood.
    """
    if priority is not None and not priorities.LEAST <= priority <= priorities.MOST:
        raise FlagError("priority", priority, priorities.BOUND)
    headers = {requests.HEADER: resource_requirements} if resource_requirements else None
    into = queue or router.own_queue(task or "", headers)
    request = router.request_for(headers, None, into)
    settings = router.settings
    on_gpu = settings.is_gpu_queue(into)
    bridged = on_gpu or (into == settings.priority_queue and request.gpus > 0)
    return Asked(task, into, priority or priorities.DEFAULT, request, bridged)


class DryRunner:
    """Over all bridges that have published lately."""

    def __init__(
        self, pictures: Sequence[Picture], capacity: ClusterCapacity | None, *, may_grow: bool
    ) -> None:
        """
        Args:
            capacity: as producers see it at publish. None: not known, so what the bridges published counts.
            may_grow: nodes of other kinds may be added, so nothing fits never.
        """
        self._pictures = pictures
        self._capacity = capacity or ClusterCapacity(_nodes(pictures), may_grow)

    def answer(self, asked: Sequence[Asked], queued: Mapping[str, Queued]) -> tuple[RequestAnswer, ...]:
        """The answers, in order. With one request alone come the verdicts of the bridge's nodes.

        Args:
            queued: of each queue that is asked about.
        """
        refusals = [self._refusal(one) if one.bridged else None for one in asked]
        placed = {at: one for at, one in enumerate(asked) if one.bridged and refusals[at] is None}
        by_bridge = [(picture, _forecasts(picture, placed)) for picture in self._pictures]
        answers = []
        for at, one in enumerate(asked):
            answer = _unplaced(one, refusals[at])
            if at in placed:
                best, found = min(
                    ((picture, forecasts[at]) for picture, forecasts in by_bridge),
                    key=lambda item: _rank(item[1]),
                )
                answer = _placed(one, best, found)
            if len(asked) == 1 and one.bridged:
                answer = self._with_nodes(answer, one)
            answers.append(_with_queue(answer, queued[one.queue]))
        return tuple(answers)

    def _refusal(self, asked: Asked) -> RequirementError | None:
        if asked.request.gpus:
            return could_ever_fit(asked.request, self._capacity)
        nodes = _nodes(self._pictures)
        return too_large(asked.request, nodes) if nodes and not self._capacity.may_grow else None

    def _with_nodes(self, answer: RequestAnswer, asked: Asked) -> RequestAnswer:
        for picture in self._pictures:
            # Of what no bridge can hold any bridge's nodes say why.
            if answer.bridge in (None, picture.status.hostname):
                nodes = picture.nodes(asked.request, executor_class(asked.task or "", asked.request))
                return answer.model_copy(update={"nodes": nodes})
        return answer


def _forecasts(picture: Picture, placed: Mapping[int, Asked]) -> dict[int, Forecast]:
    """Of each request, by its place in the batch, in one bridge."""
    published = picture.published
    after = max((task.sequence for task in published.cycle.waiting), default=0) + 1
    tasks = tuple(
        WaitingTask(
            task_id="",
            executor_class=executor_class(one.task or "", one.request),
            request=one.request,
            priority=one.priority,
            sequence=after + at,
            arrived_ms=published.now_ms,
            expected_ms=one.request.expected_ms,
        )
        for at, one in placed.items()
    )
    together = replace(published, cycle=replace(published.cycle, waiting=(*published.cycle.waiting, *tasks)))
    found = forecast_of(together, {task.sequence for task in tasks})
    return {at: _cut(found[after + at], published.left_out) for at in placed}


def _cut(found: Forecast, left_out: int) -> Forecast:
    """What waits and is not published comes before what starts later, so no time is said."""
    if not left_out or not found.starts_in_ms:
        return found
    return Forecast(None, why=NoForecast.BOUND_REACHED, reason=found.reason)


def _rank(found: Forecast) -> tuple[bool, bool, bool, int]:
    """Better first: a place now, then a known start, then a guessed one, then any hope, then none."""
    return (
        found.reason is not None,
        found.reason is Reason.NEVER_FITS,
        found.starts_in_ms is None,
        found.starts_in_ms or 0,
    )


def _placed(asked: Asked, picture: Picture, found: Forecast) -> RequestAnswer:
    start = picture.start(found)
    now = found.reason is None
    text = WOULD_START if found.reason is None else f"{words.REASONS[found.reason]} {start.words}"
    return RequestAnswer(
        task=asked.task,
        queue=asked.queue,
        priority=asked.priority,
        verdict=Verdict.START if now else Verdict.WAIT,
        words=text,
        bridge=picture.status.hostname,
        reason=found.reason,
        start=start,
    )


def _unplaced(asked: Asked, refusal: RequirementError | None) -> RequestAnswer:
    answer = RequestAnswer(
        task=asked.task,
        queue=asked.queue,
        priority=asked.priority,
        verdict=Verdict.WORKER,
        words=FOR_A_WORKER,
    )
    if refusal is None:
        return answer
    refused = RefusalAnswer(key=refusal.key, value=refusal.value, bound=refusal.bound)
    changes = {"verdict": Verdict.NEVER, "reason": Reason.NEVER_FITS, "refusal": refused}
    return answer.model_copy(update={**changes, "words": f"It is refused. {refusal}"})


def _with_queue(answer: RequestAnswer, queued: Queued) -> RequestAnswer:
    before = sum(count for priority, count in queued.depths.items() if priority >= answer.priority)
    changes: dict[str, Any] = {"on_broker": before, "paused": queued.paused}
    if queued.paused is not None and answer.verdict is not Verdict.NEVER:
        changes["words"] = f"Its queue is paused, so nothing is taken from it. {answer.words}"
        changes["verdict"] = Verdict.WAIT if answer.verdict is Verdict.START else answer.verdict
    return answer.model_copy(update=changes)


def _nodes(pictures: Sequence[Picture]) -> tuple[NodeCapacity, ...]:
    return tuple(
        _capacity(node, picture.published.cycle.policy.headroom_mib)
        for picture in pictures
        for node in picture.published.cycle.snapshot.nodes
    )


def _capacity(node: NodeState, headroom_mib: int) -> NodeCapacity:
    devices = tuple(
        DeviceCapacity(d.gpu_type, max(0, d.total_mib - headroom_mib) if d.total_mib else None)
        for d in node.devices
    )
    return NodeCapacity(node.cpus_milli, node.memory_mib, dict(node.labels), devices)
