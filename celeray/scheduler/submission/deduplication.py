"""`deduplicate` as users write it, made into a `Deduplication`, and the digest of what it compares. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from celeray.scheduler.errors import SubmissionError

HEADER = "deduplicate"
"""The message header and the task attribute that ask for it."""
HOLD_HEADER = "celeray_hold"
"""Message header: digest and token by which this message holds a dedup key. Lua reads it, too (lua/lease.lua)."""
ENDED, PERIOD, BOTH = "ended", "period", "both"
KEY_MAX = 1024
"""Characters of a key, filled in."""
PERIOD_MAX_S = 366 * 24 * 3600
DEPTH_MAX = 100

_KEYS = ("key", "for_s", "until")
_FIELD = re.compile(r"\{(args|kwargs)\[(\w+)\]\}")


@dataclass(frozen=True, slots=True)
class Deduplication:
    """What is compared, and for how long."""

    key: str | None = None
    """None: the task's name, args and kwargs. Else this text, with `{args[0]}` and `{kwargs[name]}` filled in."""
    until_ended: bool = True
    """Held until the task has ended."""
    period_ms: int = 0
    """Held for so long, whatever becomes of the task. 0: no such period."""


def parse(raw: Any) -> Deduplication | None:
    """Read what a user wrote. None: switched off.

    Raises:
        SubmissionError: not understood; names key, value and bound.
    """
    if raw is None or raw is False:
        return None
    if raw is True:
        return Deduplication()
    if not isinstance(raw, Mapping):
        raise SubmissionError(HEADER, raw, f"true, false or a mapping of {', '.join(_KEYS)}")
    for name in raw:
        if name not in _KEYS:
            raise SubmissionError(f"{HEADER}.{name}", raw[name], f"unknown key; known are {', '.join(_KEYS)}")
    period_ms = _period_ms(raw.get("for_s"))
    until = raw.get("until", PERIOD if period_ms else ENDED)
    if until not in (ENDED, PERIOD, BOTH):
        raise SubmissionError(f"{HEADER}.until", until, f"one of {ENDED}, {PERIOD}, {BOTH}")
    if until == ENDED and period_ms:
        raise SubmissionError(f"{HEADER}.until", until, "contradicts for_s; 'both' holds until both are over")
    if until != ENDED and not period_ms:
        raise SubmissionError(f"{HEADER}.until", until, "needs for_s")
    return Deduplication(_key(raw.get("key")), until_ended=until != PERIOD, period_ms=period_ms)


def _period_ms(raw: Any) -> int:
    if raw is None:
        return 0
    number = isinstance(raw, int | float) and not isinstance(raw, bool)
    if not number or not math.isfinite(raw) or not 0.001 <= raw <= PERIOD_MAX_S:
        raise SubmissionError(f"{HEADER}.for_s", raw, f"seconds from 0.001 to {PERIOD_MAX_S}")
    return max(1, round(raw * 1000))


def _key(raw: Any) -> str | None:
    if raw is not None and (not isinstance(raw, str) or not 0 < len(raw) <= KEY_MAX):
        raise SubmissionError(f"{HEADER}.key", raw, f"a text of 1 to {KEY_MAX} characters")
    return raw


def digest(wanted: Deduplication, name: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> str:
    """64 hexadecimal digits: equal for submissions that are duplicates of each other.

    Tasks of different names never are. Of mappings the order does not count, of sets neither; a tuple is a list, as it
    is for the worker. `1`, `1.0` and `True` are three different values.

    Raises:
        SubmissionError: a value can't be compared, or the key names an argument that is not there.
    """
    if wanted.key is None:
        content: Any = ("content", name, list(args), dict(kwargs))
    else:
        content = ("key", name, _filled(wanted.key, list(args), kwargs))
    try:
        text = _canonical(content, 0)
    except RecursionError:
        raise SubmissionError(
            HEADER, True, f"arguments nested at most {DEPTH_MAX} deep; give a key"
        ) from None
    return hashlib.sha256(text).hexdigest()


def _filled(key: str, args: list[Any], kwargs: Mapping[str, Any]) -> str:
    def fill(match: re.Match[str]) -> str:
        where, name = match.groups()
        try:
            value = args[int(name)] if where == "args" else kwargs[name]
        except (LookupError, ValueError):
            raise SubmissionError(f"{HEADER}.key", key, f"this call has no {match[0][1:-1]}") from None
        if not isinstance(value, str | int | float | UUID | Decimal):
            raise SubmissionError(
                f"{HEADER}.key", key, f"{match[0][1:-1]} is a {type(value).__name__}: texts and numbers only"
            )
        return str(value)

    filled = _FIELD.sub(fill, key)
    if len(filled) > KEY_MAX:
        raise SubmissionError(f"{HEADER}.key", f"{filled[:40]}...", f"at most {KEY_MAX} characters")
    return filled


def _canonical(value: Any, depth: int) -> bytes:
    """Bytes that are equal for equal values only: each with its kind and its length in front."""
    if depth > DEPTH_MAX:
        raise RecursionError
    encode = _ENCODERS.get(type(value))
    if encode is not None:
        return encode(value)
    if isinstance(value, Mapping):
        items = sorted(
            (_canonical(key, depth + 1), _canonical(item, depth + 1)) for key, item in value.items()
        )
        return _framed(b"m", b"".join(part for item in items for part in item))
    if isinstance(value, list | tuple):
        return _framed(b"l", b"".join([_canonical(item, depth + 1) for item in value]))
    if isinstance(value, set | frozenset):
        return _framed(b"s", b"".join(sorted(_canonical(item, depth + 1) for item in value)))
    for kind, encode in _ENCODERS.items():
        if isinstance(value, kind):
            return encode(value)
    raise SubmissionError(
        HEADER, True, f"an argument is a {type(value).__name__}, which can't be compared; give a key"
    )


def _framed(kind: bytes, content: bytes) -> bytes:
    return b"%s%d:%s" % (kind, len(content), content)


def _as_text(kind: bytes) -> Callable[[Any], bytes]:
    return lambda value: _framed(kind, str(value).encode("utf-8", "surrogatepass"))


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    str: _as_text(b"t"),
    bool: _as_text(b"b"),
    int: _as_text(b"i"),
    float: lambda value: _framed(b"f", value.hex().encode()),
    type(None): _as_text(b"n"),
    bytes: lambda value: _framed(b"y", value),
    bytearray: lambda value: _framed(b"y", bytes(value)),
    datetime: lambda value: _framed(b"d", value.isoformat().encode()),
    date: _as_text(b"D"),
    time: _as_text(b"T"),
    timedelta: _as_text(b"e"),
    UUID: _as_text(b"u"),
    Decimal: _as_text(b"c"),
}
