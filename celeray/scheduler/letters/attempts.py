"""The failed attempts of a message: what a letter shows of each, and how they travel with a message that is sent again.

They are in a header of the message, `celeray_attempts`, so they need no key of their own, move with it, and are gone
with it when a run succeeds. Whoever can publish can write that header: reading it never fails, and is bounded.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgpack  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError

HEADER = "celeray_attempts"
KEPT_FIRST, KEPT_LAST = 2, 8
"""Of more attempts than both together those in between are left out."""
MESSAGE_MOST = 500
"""Characters of an exception's text that are kept."""
TRACEBACK_MOST = 4000
"""Characters of a traceback that are kept, the last ones: they name the place."""
NAME_MOST = 200
DEVICES_MOST = 16
PACKED_MOST = 256 * 1024
"""Bytes of a header that are read; a larger one counts as none."""
UNPACKED_MOST = 1024 * 1024
_BROKEN = (
    ValueError,
    TypeError,
    KeyError,
    RecursionError,
    OverflowError,
    zlib.error,
    msgpack.UnpackException,
)


class Attempt(BaseModel):
    """One run that ended in a failure."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(ge=1)
    """From 1, over all runs of the message since it was first sent, or redriven."""
    outcome: str = Field(max_length=NAME_MOST)
    """As `celeray.scheduler.outcomes.Outcome` has it."""
    began_at: float | None = Field(default=None, allow_inf_nan=False)
    """Seconds since the epoch by the worker's clock. None: it never began."""
    ended_at: float = Field(allow_inf_nan=False)
    worker: str = Field(max_length=NAME_MOST)
    """Celery's name of the worker, or of the bridge."""
    node: str | None = Field(default=None, max_length=NAME_MOST)
    """Where it ran. None: it never began."""
    devices: tuple[str, ...] = Field(default=(), max_length=DEVICES_MOST)
    """UUIDs of its devices."""
    vram_asked_mib: int | None = None
    """A device. None: it asked for none, or for whole devices."""
    vram_peak_mib: int | None = None
    """The most that was read of it on a device. None: nothing was."""
    exception: str = Field(max_length=NAME_MOST)
    """The class's name, with its module unless that is `builtins`."""
    message: str = Field(max_length=MESSAGE_MOST)
    traceback: str = Field(default="", max_length=TRACEBACK_MOST)


@dataclass(frozen=True, slots=True)
class Attempts:
    """All that is known of a message's attempts."""

    retried: int = 0
    """Of them, those after which its retry policy sent it again."""
    total: int = 0
    kept: tuple[Attempt, ...] = ()
    """The first ones and the last ones, in their order."""

    @property
    def last(self) -> Attempt | None:
        return self.kept[-1] if self.kept else None

    def plus(self, attempt: Attempt, *, retried: bool) -> Attempts:
        """With one more, which gets its number here."""
        total = self.total + 1
        kept = (*self.kept, attempt.model_copy(update={"number": total}))
        if len(kept) > KEPT_FIRST + KEPT_LAST:
            kept = (*kept[:KEPT_FIRST], *kept[-KEPT_LAST:])
        return replace(self, retried=self.retried + retried, total=total, kept=kept)

    def packed(self) -> bytes:
        """As a letter's record keeps them."""
        entries = [attempt.model_dump(exclude_defaults=True) for attempt in self.kept]
        return zlib.compress(msgpack.packb([self.retried, self.total, entries], use_bin_type=True))

    def header(self) -> str:
        """As the message's header has them: printable ASCII."""
        return base64.b64encode(self.packed()).decode()


def unpacked(raw: Any) -> Attempts:
    """What `packed` made; nothing of what is no such thing."""
    if not isinstance(raw, bytes) or len(raw) > PACKED_MOST:
        return Attempts()
    try:
        stream = zlib.decompressobj()
        plain = stream.decompress(raw, UNPACKED_MOST)
        retried, total, entries = msgpack.unpackb(plain, raw=False, strict_map_key=True)
        kept = tuple(Attempt.model_validate(entry) for entry in entries[: KEPT_FIRST + KEPT_LAST])
        counted = all(type(number) is int and 0 <= number < 2**31 for number in (retried, total))
        return Attempts(retried, total, kept) if counted else Attempts()
    except (*_BROKEN, ValidationError):
        return Attempts()


def attempts_of(headers: Any) -> Attempts:
    """Those that a message's headers tell of."""
    text = headers.get(HEADER) if isinstance(headers, Mapping) else None
    if not isinstance(text, str) or len(text) > PACKED_MOST:
        return Attempts()
    try:
        return unpacked(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return Attempts()


def name_of(error: type[BaseException]) -> str:
    """A class of exceptions as attempts name it."""
    module, name = error.__module__, error.__qualname__
    return clean(name if module == "builtins" else f"{module}.{name}", NAME_MOST)


def text_of(error: BaseException) -> str:
    """An exception's text, which its own code makes."""
    try:
        return clean(str(error), MESSAGE_MOST)
    except Exception:  # noqa: BLE001 - whatever its __str__ raises
        return "<no text>"


def end_of(traceback: str | None) -> str:
    """The part of a traceback that is kept."""
    return clean((traceback or "")[-TRACEBACK_MOST:], TRACEBACK_MOST)


def clean(text: str, most: int) -> str:
    """Cut, and without lone surrogates, which UTF-8 can't write."""
    return text[:most].encode("utf-8", "replace").decode()


def seconds(value: Any) -> float | None:
    """A time, or None where it is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and math.isfinite(value) else None
