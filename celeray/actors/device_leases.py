"""Device leases: one placement group a GPU, the GPUs of a node all or none.

Ray decides who owns a device. A group of one bundle `{"GPU": 1}`, pinned to the node by its id label, belongs to this
bridge until the bridge's driver dies; inside it Ray counts the executors' shares exactly and refuses over-commit.
Two bridges that want the same node each may get a part; then both give back what they have and try again, each
after a random time.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from celeray.actors.ray_errors import describe
from celeray.scheduler.model import DeviceReading, Health

NODE_ID_LABEL = "ray.io/node-id"
GROUPS_TIMEOUT_S = 5.0
"""Groups of a free node are ready in 0.25 s (measured); after this another bridge has some of its devices."""
PROBE_TIMEOUT_S = 60.0
RETRY_MIN_S = 1.0
RETRY_MAX_S = 5.0
NOT_SHOWN = "NVML does not show the device any more"

logger = logging.getLogger(__name__)


def _token() -> str:
    """Runs inside a group: the device that Ray gave it, an index or a UUID."""
    return str(ray.get_runtime_context().get_accelerator_ids()["GPU"][0])


# max_calls=0: Ray would end the process after each call of a task with GPUs, and one process serves all probes.
_probe = ray.remote(num_cpus=0, num_gpus=0.0001, max_calls=0, max_retries=3)(_token)


class _Phase(Enum):
    WAITING = auto()
    GROUPS = auto()
    PROBING = auto()
    HELD = auto()


class NodeLease:
    """The devices of one node. `step` moves it on and never blocks for long; one thread calls it."""

    def __init__(self, node_id: str, gpus: int) -> None:
        self.node_id = node_id
        self.gpus = gpus
        self._phase = _Phase.WAITING if gpus else _Phase.HELD
        self._until = 0.0
        self._groups: list[PlacementGroup] = []
        self._tokens: list[str] = []
        self._probe: Any = None
        self._by_uuid: dict[str, PlacementGroup] = {}
        self._newest: dict[str, DeviceReading] = {}
        """By Ray's token: an index means another device once one before it fell off the bus."""
        self._told = False

    @property
    def held(self) -> bool:
        """Whether all devices are leased and known; a node without devices is held from the beginning."""
        return self._phase is _Phase.HELD

    def group(self, uuid: str) -> PlacementGroup | None:
        """The group whose device has this UUID, as far as a reading has shown it."""
        return self._by_uuid.get(uuid)

    def step(self, now: float) -> None:
        """Do what is due at `now`, monotonic seconds."""
        if self._phase is _Phase.WAITING and now >= self._until:
            self._create_groups(now)
        elif self._phase is _Phase.GROUPS:
            self._check_groups(now)
        elif self._phase is _Phase.PROBING:
            self._check_probe(now)

    def release(self) -> None:
        """Give the devices back."""
        for group in self._groups:
            remove_placement_group(group)
        self._groups, self._tokens, self._probe, self._by_uuid, self._newest = [], [], None, {}, {}
        self._phase = _Phase.WAITING

    def leased(self, devices: Sequence[DeviceReading]) -> tuple[DeviceReading, ...]:
        """Those of a node's devices that Ray gave to this bridge, and remember which group has which.

        Empty until all are leased. A device that was seen once is always among them: where NVML does not show it, its
        memory is unknown, and it still belongs to its group.
        """
        if not self.held:
            return ()
        matched = {}
        for token, group in zip(self._tokens, self._groups, strict=True):
            device = _follow(self._newest.get(token), token, devices)
            if device is not None:
                self._newest[token] = device
                matched[device.uuid] = group
        self._by_uuid = matched
        return tuple(self._newest[token] for token in self._tokens if token in self._newest)

    def _create_groups(self, now: float) -> None:
        selector = [{NODE_ID_LABEL: self.node_id}]
        self._groups = [
            placement_group([{"GPU": 1}], bundle_label_selector=selector) for _ in range(self.gpus)
        ]
        self._phase, self._until = _Phase.GROUPS, now + GROUPS_TIMEOUT_S

    def _check_groups(self, now: float) -> None:
        states = [placement_group_table(group).get("state") for group in self._groups]
        if all(state == "CREATED" for state in states):
            self._phase, self._until = _Phase.PROBING, now + PROBE_TIMEOUT_S
        elif now > self._until:
            ready = states.count("CREATED")
            self._retry(f"{ready} of {self.gpus} devices were free within {GROUPS_TIMEOUT_S:.0f} s")

    def _check_probe(self, now: float) -> None:
        if self._probe is None:
            strategy = PlacementGroupSchedulingStrategy(self._groups[len(self._tokens)])
            self._probe = _probe.options(scheduling_strategy=strategy).remote()
        try:
            ready, _ = ray.wait([self._probe], timeout=0.05)
            if not ready:
                if now > self._until:
                    self._retry(f"no answer from its devices within {PROBE_TIMEOUT_S:.0f} s")
                return
            self._tokens.append(ray.get(self._probe))
        except RayError as error:
            self._retry(describe(error))
            return
        self._probe = None
        if len(self._tokens) == self.gpus:
            self._phase, self._told = _Phase.HELD, False

    def _retry(self, reason: str) -> None:
        delay = random.uniform(RETRY_MIN_S, RETRY_MAX_S)  # noqa: S311 - spreads bridges, no secret
        # Said once: the other bridge may well keep the node for days.
        level = logging.DEBUG if self._told else logging.WARNING
        logger.log(level, "node %s not leased, tried again until it is: %s", self.node_id, reason)
        self._told = True
        self.release()
        self._until = time.monotonic() + delay


def match_device(token: str, devices: Sequence[DeviceReading]) -> DeviceReading | None:
    """The device that Ray's token means: an index, or a UUID, which CUDA lets be cut short."""
    if token.isdigit():
        return next((device for device in devices if device.index == int(token)), None)
    matches = [device for device in devices if device.uuid.startswith(token)]
    return matches[0] if len(matches) == 1 else None


def _follow(
    known: DeviceReading | None, token: str, devices: Sequence[DeviceReading]
) -> DeviceReading | None:
    """The token's device in a new reading; `known` is the newest one of before."""
    if known is None:
        return match_device(token, devices)
    shown = next((device for device in devices if device.uuid == known.uuid), None)
    if shown is None:
        return DeviceReading(
            known.uuid, known.index, known.name, None, None, None, Health.UNKNOWN, health_reason=NOT_SHOWN
        )
    # A lost device tells no name, and its type does not change.
    return replace(shown, name=shown.name or known.name)
