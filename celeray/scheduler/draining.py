"""Draining devices and nodes from the outside. The state lies in Redis, so a bridge that starts later honours it.

Bridges read it twice a second. `undrain` also forgives the XIDs that keep a device out: those that the bridges show at
that moment, and no later one. Works with every broker, since bridges alone honour it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple

import redis
from pydantic import BaseModel, ConfigDict, ValidationError

from celeray.scheduler.audit import AuditTrail, checked_by, checked_why
from celeray.scheduler.errors import UnknownSubjectError
from celeray.scheduler.keys import Keys
from celeray.scheduler.standing import Drained
from celeray.scheduler.status import BridgeStatus, DeviceStatus
from celeray.scheduler.status_store import StatusStore, UnreadableStatusError
from celeray.scheduler.suspensions import Drain, suspended_anew

DRAINED_WHY = "drained"
UNDRAINED_WHY = "undrained"
"""What the trail says where no reason was given."""


class SubjectKind(StrEnum):
    """What can be drained."""

    DEVICE = "device"
    NODE = "node"


class Subject(NamedTuple):
    """A device by its UUID, or a node by its name or id."""

    kind: SubjectKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def field(self) -> str:
        """Where its drain is in the hash."""
        return f"{self.kind}:{self.name}"


class DrainChange(BaseModel):
    """A device or node after `drain` or `undrain`."""

    model_config = ConfigDict(frozen=True)

    kind: SubjectKind
    name: str
    drained: Drain | None
    forgiven: tuple[str, ...] = ()
    """UUIDs of devices whose XIDs keep them out no longer."""
    changed: bool
    """False: it was so before, and nothing was written."""


class Drains:
    """Drains and undrains the devices and nodes of one cluster.

    Methods raise `redis.RedisError` when Redis does not answer.
    """

    def __init__(self, store: StatusStore) -> None:
        """
        Args:
            store: where the bridges write.
        """
        self._store = store
        self._client: Any = store.client
        self._key, self._forgiven_key = store.keys.drained(), store.keys.forgiven()
        self._audit = AuditTrail(store.client, store.keys)

    def drain(self, subject: Subject, *, by: str, why: str = DRAINED_WHY, now: float) -> DrainChange:
        """Let nothing new be placed there until it is undrained; what runs there finishes.

        What is drained stays drained since then; another reason replaces the one that is there.

        Args:
            now: seconds since the epoch.

        Raises:
            UnknownSubjectError: no bridge sees it.
            OperatorInputError: `by` or `why` can't be kept.
        """
        by, why = checked_by(by), checked_why(why)
        if not self._client.hexists(self._key, subject.field):
            self._check_known(subject, self._store.read_bridges())

        def decide_and_write(pipe: Any) -> DrainChange:
            current = _parsed(subject.field, pipe.hget(self._key, subject.field))
            drained = suspended_anew(Drain, current, by=by, why=why, now=now)
            pipe.multi()
            if drained != current:
                pipe.hset(self._key, subject.field, drained.model_dump_json())
                self._audit.add(pipe, at=now, by=by, action="drain", target=str(subject), why=why)
            return DrainChange(
                kind=subject.kind, name=subject.name, drained=drained, changed=drained != current
            )

        return self._transaction(decide_and_write)

    def undrain(self, subject: Subject, *, by: str, why: str = UNDRAINED_WHY, now: float) -> DrainChange:
        """Let work be placed there again, and forgive the XIDs that keep its devices out now.

        A node is taken back under its name and its id, whichever it was drained by.

        Raises:
            UnknownSubjectError: no bridge sees it, and it is not drained.
            OperatorInputError: `by` or `why` can't be kept.
        """
        by, why = checked_by(by), checked_why(why)
        bridges = self._store.read_bridges()
        fields = _fields_of(subject, bridges)
        if not any(self._client.hmget(self._key, fields)):
            self._check_known(subject, bridges)
        marks = {
            device.uuid: device.marked_at for device in _devices_of(subject, bridges) if device.marked_at
        }

        def decide_and_write(pipe: Any) -> DrainChange:
            was_drained = any(pipe.hmget(self._key, fields))
            known = read_forgiven(pipe.hgetall(self._forgiven_key))
            new = {uuid: at for uuid, at in marks.items() if at > known.get(uuid, 0.0)}
            pipe.multi()
            if was_drained:
                pipe.hdel(self._key, *fields)
            if new:
                pipe.hset(self._forgiven_key, mapping={uuid: repr(at) for uuid, at in new.items()})
            if was_drained or new:
                self._audit.add(pipe, at=now, by=by, action="undrain", target=str(subject), why=why)
            return DrainChange(
                kind=subject.kind,
                name=subject.name,
                drained=None,
                forgiven=tuple(sorted(new)),
                changed=was_drained or bool(new),
            )

        return self._transaction(decide_and_write)

    def _transaction(self, decide_and_write: Any) -> DrainChange:
        """State and record in one MULTI; decided anew where another operator wrote in between."""
        keys = (self._key, self._forgiven_key)
        change: DrainChange = self._client.transaction(decide_and_write, *keys, value_from_callable=True)
        return change

    @staticmethod
    def _check_known(subject: Subject, bridges: Iterable[BridgeStatus]) -> None:
        if subject.kind is SubjectKind.DEVICE:
            known = {device.uuid for bridge in bridges for device in bridge.devices}
            accepted = known
        else:
            nodes = [node for bridge in bridges for node in bridge.nodes]
            known = {node.name for node in nodes}
            accepted = known | {node.node_id for node in nodes}
        if subject.name not in accepted:
            raise UnknownSubjectError(subject.kind, subject.name, sorted(known))


def read_drained(client: redis.Redis, keys: Keys) -> Drained:
    """Everything that is drained or forgiven.

    Raises:
        redis.RedisError: Redis does not answer.
        UnreadableStatusError: an incompatible version wrote there.
    """
    pipe: Any = client.pipeline(transaction=False)
    drained, forgiven = pipe.hgetall(keys.drained()).hgetall(keys.forgiven()).execute()
    found: dict[str, dict[str, Drain]] = {kind: {} for kind in SubjectKind}
    for field, document in sorted((_text(key), document) for key, document in drained.items()):
        kind, _, name = field.partition(":")
        if (drain := _parsed(field, document)) is not None and kind in found:
            found[kind][name] = drain
    return Drained(found[SubjectKind.DEVICE], found[SubjectKind.NODE], read_forgiven(forgiven))


def read_forgiven(fields: Any) -> dict[str, float]:
    """The hash as Redis gives it, by UUID."""
    return {_text(uuid): float(at) for uuid, at in fields.items()}


def _fields_of(subject: Subject, bridges: Iterable[BridgeStatus]) -> list[str]:
    """Where its drain may be: what it was called, and for a node its name and its id."""
    names = {subject.name}
    for bridge in bridges if subject.kind is SubjectKind.NODE else ():
        for node in bridge.nodes:
            if subject.name in (node.name, node.node_id):
                names |= {node.name, node.node_id}
    return [Subject(subject.kind, name).field for name in sorted(names)]


def _devices_of(subject: Subject, bridges: Iterable[BridgeStatus]) -> list[DeviceStatus]:
    return [
        device
        for bridge in bridges
        for device in bridge.devices
        if subject.name
        in ((device.uuid,) if subject.kind is SubjectKind.DEVICE else (device.node_name, device.node_id))
    ]


def _parsed(field: str, document: bytes | str | None) -> Drain | None:
    try:
        return None if document is None else Drain.model_validate_json(document)
    except ValidationError as error:
        kind, _, name = field.partition(":")
        raise UnreadableStatusError(
            f"the drain of {kind} {name!r} in Redis can't be read by this version of celeray; "
            f"`celeray undrain {kind} {name}` takes it away: {error}"
        ) from error


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
