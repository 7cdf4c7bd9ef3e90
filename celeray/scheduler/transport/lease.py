"""One lease, and what has happened to leases since Redis was told last."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from celeray.scheduler.transport.scripts import Argument


@dataclass(slots=True, eq=False)
class Lease:
    """The right to run one message, from its claim until it is settled."""

    delivery_tag: str
    """What the consumer acks with: unlike the message's tag it is new with every claim."""
    tag: str
    """Its name in kombu's hash of unacked messages."""
    token: str
    """Owner and fence, as Redis has it."""
    level: int = 0
    """Of the list that it was claimed from; 0 is served first."""
    has_begun: bool = False
    with_pool: bool = False
    """A worker's pool has it, though its begin was not told yet."""
    hold: str = ""
    """What the message holds of a dedup key; let go of with the ack. Empty: nothing, or somebody else lets go."""
    ending: Any = None
    """What its settlement leaves of the message, an `Ending`. None: nothing."""
    returned_as: bytes | None = None
    """The message as it goes back to its list, where its consumer requeues it. None: as it is held."""
    uncertain: bool = False
    """Its settlement was sent once and the reply was lost, so it may be done already."""

    @property
    def fence(self) -> int:
        """Rises with every claim of any message."""
        return int(self.token.rpartition(":")[2])


@dataclass(slots=True)
class Settlements:
    """What has happened to leases and is not told to Redis yet."""

    begun: list[Lease] = field(default_factory=list)
    ended: list[Lease] = field(default_factory=list)
    acked: list[Lease] = field(default_factory=list)
    in_vain: list[Lease] = field(default_factory=list)
    """Of these one begun run is taken back."""

    def begin(self, lease: Lease) -> None:
        """A run begins; where the one before is still to be taken back, that stands for this one."""
        (self.in_vain.remove if lease in self.in_vain else self.begun.append)(lease)

    def take_back(self, lease: Lease) -> None:
        """The run that has begun is no attempt."""
        (self.begun.remove if lease in self.begun else self.in_vain.append)(lease)

    def __bool__(self) -> bool:
        return bool(self.begun or self.ended or self.acked or self.in_vain)

    def forget(self, lease: Lease) -> bool:
        """Its settlement tells all. Whether its begin was not told yet."""
        untold = any(other is lease for other in self.begun)
        self.begun = [other for other in self.begun if other is not lease]
        self.ended = [other for other in self.ended if other is not lease]
        self.in_vain = [other for other in self.in_vain if other is not lease]
        return untold

    def shortened(self) -> Settlements:
        """Of what is acked, only that."""
        acked = set(map(id, self.acked))

        def others(leases: Iterable[Lease]) -> list[Lease]:
            return [lease for lease in leases if id(lease) not in acked]

        return Settlements(others(self.begun), others(self.ended), self.acked, others(self.in_vain))

    def followed_by(self, later: Settlements) -> Settlements:
        """Both, in their order."""
        return Settlements(
            self.begun + later.begun,
            self.ended + later.ended,
            self.acked + later.acked,
            self.in_vain + later.in_vain,
        )

    def all(self) -> list[Lease]:
        return [*self.begun, *self.ended, *self.acked, *self.in_vain]

    def arguments(self) -> list[Argument]:
        """Of settle.lua."""
        acked = [
            text
            for lease in self.acked
            for text in (lease.tag, f"{lease.token}\n{lease.hold}" if lease.hold else lease.token)
        ]
        in_vain = [text for lease in self.in_vain for text in (lease.tag, f"{lease.token}\n1")]
        ended = [*pairs(self.ended), *in_vain]
        return [len(self.begun), len(ended) // 2, *pairs(self.begun), *ended, *acked]


def as_text(value: bytes | str) -> str:
    """What a script returned."""
    return value.decode() if isinstance(value, bytes) else value


def pairs(leases: Iterable[Lease]) -> list[str]:
    """Tag and token of each, as the scripts take them."""
    return [text for lease in leases for text in (lease.tag, lease.token)]
