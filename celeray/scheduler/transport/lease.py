"""One lease, and what has happened to leases since Redis was told last."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

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

    def __bool__(self) -> bool:
        return bool(self.begun or self.ended or self.acked)

    def all(self) -> list[Lease]:
        return [*self.begun, *self.ended, *self.acked]

    def arguments(self) -> list[Argument]:
        """Of settle.lua."""
        acked = [
            text
            for lease in self.acked
            for text in (lease.tag, f"{lease.token}\n{lease.hold}" if lease.hold else lease.token)
        ]
        return [len(self.begun), len(self.ended), *pairs(self.begun), *pairs(self.ended), *acked]


def pairs(leases: Iterable[Lease]) -> list[str]:
    """Tag and token of each, as the scripts take them."""
    return [text for lease in leases for text in (lease.tag, lease.token)]
