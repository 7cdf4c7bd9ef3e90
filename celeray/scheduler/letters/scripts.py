"""The Lua scripts of this package, each after what it shares with the leased transport and with the others."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from celeray.scheduler.audit import AuditTrail
from celeray.scheduler.transport.scripts import Argument, Script

PART_MOST = 200
"""Letters a run of a script: Redis serves nobody else meanwhile, about 5 ms for so many."""
PART_BYTES = 4 * 1024 * 1024
"""Bytes of records a run; a single one may be larger."""


class LetterScript(Script):
    """A script of this package."""

    def __init__(self, name: str) -> None:
        transport, own = files("celeray.scheduler.transport") / "lua", files(__package__) / "lua"
        parts = (transport / "lease.lua", own / "trail.lua", own / f"{name}.lua")
        self.name = name
        self.source = "\n".join(part.read_text("utf-8") for part in parts).encode()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


@cache
def letter_script(name: str) -> LetterScript:
    """The script of `lua/NAME.lua` here."""
    return LetterScript(name)


class TrailRecord:
    """Stands for the pipeline of `AuditTrail.add`: the script writes the record, since it alone knows how many."""

    def __init__(self, trail: AuditTrail, *, at: float, by: str, action: str, target: str, why: str) -> None:
        self.key = ""
        self._most = 0
        self._fields: list[Argument] = []
        trail.add(self, at=at, by=by, action=action, target=target, why=why)

    def xadd(self, key: str, fields: dict[str, str], *, maxlen: int, approximate: bool) -> None:
        """Keep what would be written."""
        del approximate
        self.key, self._most = key, maxlen
        self._fields = [text for pair in fields.items() for text in pair]

    @property
    def arguments(self) -> list[Any]:
        """Of a script: records at most, number of fields, fields."""
        return [self._most, len(self._fields), *self._fields]
