"""The Lua scripts of this package, and the record in the audit trail that those which change letters write."""

from __future__ import annotations

from collections.abc import Mapping

from celeray.scheduler.audit import RECORDS_MAX
from celeray.scheduler.transport.scripts import Argument, Script, script

PART_MOST = 200
"""Letters a run of a script: Redis serves nobody else meanwhile, about 5 ms for so many."""
PART_BYTES = 4 * 1024 * 1024
"""Bytes of records a run; a single one may be larger."""


def letter_script(name: str) -> Script:
    """The script of `lua/NAME.lua` here."""
    return script(name, "celeray.scheduler.letters", ("trail", "places"))


def trail_arguments(fields: Mapping[str, str]) -> list[Argument]:
    """Of lua/trail.lua: records at most, how many fields follow, and these. The script adds how many letters it was."""
    texts = [text for pair in fields.items() for text in pair]
    return [RECORDS_MAX, len(texts), *texts]
