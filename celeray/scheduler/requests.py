"""Resource requirements as users write them, made into a `ResourceRequest`. Pure.

A requirement comes in up to three layers: the message's header over the task's attribute over the queue's default.
Each layer is parsed on its own into canonical keys, so that `vram_mb` in one layer overrides `vram_gb` in another;
then they are merged key by key, and what is implied is filled in once, at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from fractions import Fraction
from typing import Any, NamedTuple

from celeray.scheduler.errors import RequirementError
from celeray.scheduler.model import MIB, Basis, Isolation, OnOom, ResourceRequest

HEADER = "resource_requirements"
"""The message header and the task attribute that carry requirements."""

GPUS_MAX = 1024
VRAM_MAX_MIB = 16 * 1024 * 1024
"""16 TiB: a hundred times the largest device of 2026."""
CPUS_MAX = 65_536
HOST_MEMORY_MAX_MIB = 1024 * 1024 * 1024
"""1 PiB."""
EXPECTED_MAX_S = 366 * 24 * 3600
LABELS_MAX = 64
INT_BITS_MAX = 64
NAME_MAX = 253
DEFAULT_CPUS_MILLI = 1000
"""Of a task without devices. One with devices waits for those, and asks for no CPU of its own."""

_AMOUNT = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*([KMGT]i?B)", re.IGNORECASE)
_UNIT_BYTES = {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}


class Given(NamedTuple):
    """One key of one layer: as it was written, for errors, and parsed."""

    key: str
    raw: Any
    value: Any


Layer = dict[str, Given]
"""A parsed layer by canonical key, which is the field of `ResourceRequest`."""


DEVICE_FIELDS = ("memory_mib", "memory_mib_max", "exclusive", "gpu_types", "basis")
"""What means nothing without a device."""


def effective_request(
    header: Mapping[str, Any] | None,
    attribute: Mapping[str, Any] | None,
    default: Mapping[str, Any] | None,
) -> ResourceRequest:
    """Merge `header` over `attribute` over `default`.

    Raises:
        RequirementError: a key is unknown, a value can't be understood or is out of its bound, or two contradict.
    """
    merged: Layer = {}
    for layer in (default, attribute, header):
        if layer is not None:
            merged = _over(parse_layer(layer), merged)
    return _finish(merged)


def merge_raw(upper: Mapping[str, Any], lower: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` over `lower`, still as users write it: a `vram_mb` replaces a `vram_gb`.

    Raises:
        RequirementError: a key of either is unknown, or a value can't be understood.
    """
    above, below = parse_layer(upper), parse_layer(lower)
    if "gpus" in above and above["gpus"].value == 0:
        below = {name: given for name, given in below.items() if name not in DEVICE_FIELDS}
    merged = _over(above, below)
    return {given.key: given.raw for given in merged.values()}


def parse_layer(layer: Mapping[str, Any]) -> Layer:
    """Parse one layer. What is absent stays absent.

    Raises:
        RequirementError: as `effective_request`, of this layer alone.
    """
    if not isinstance(layer, Mapping):
        raise RequirementError(HEADER, layer, "a mapping of keys to values")
    parsed: Layer = {}
    for key, raw in layer.items():
        if key not in _KEYS:
            raise RequirementError(
                str(key) or repr(key), raw, f"unknown key; known are {', '.join(sorted(_KEYS))}"
            )
        if isinstance(raw, int) and raw.bit_length() > INT_BITS_MAX:
            # Neither floats nor Python's own conversion to text take any integer.
            raise RequirementError(
                key, f"an integer of {raw.bit_length()} bits", f"at most {INT_BITS_MAX} bits"
            )
        name, parse = _KEYS[key]
        if name in parsed:
            raise RequirementError(key, raw, f"says the same as {parsed[name].key}: give one of them")
        parsed[name] = Given(key, raw, parse(key, raw))
    gpus = parsed.get("gpus")
    if gpus is not None and gpus.value == 0 and _wants_device(parsed):
        # Only a layer above or below may take the device away; in one breath it is a mistake.
        raise RequirementError(gpus.key, gpus.raw, "contradicts the device that the other keys ask for")
    return parsed


def _over(upper: Layer, lower: Layer) -> Layer:
    merged = {**lower, **upper}
    if "gpus" not in upper and "gpus" in lower and lower["gpus"].value == 0 and _wants_device(upper):
        # The more specific layer asks for a device, so the `gpu: false` below it no longer holds.
        del merged["gpus"]
    return merged


def _wants_device(layer: Layer) -> bool:
    exclusive = layer.get("exclusive")
    return "memory_mib" in layer or "gpu_types" in layer or (exclusive is not None and exclusive.value)


def _finish(layer: Layer) -> ResourceRequest:
    """Fill in what is implied, and check what concerns several keys."""
    fields = {name: given.value for name, given in layer.items()}
    gpus = fields.setdefault("gpus", int(_wants_device(layer)))
    if gpus == 0:
        for name in DEVICE_FIELDS:
            fields.pop(name, None)
    else:
        fields["exclusive"] = _exclusive(layer)
        _check_max(layer)
        _check_basis(layer)
    fields.setdefault("cpus_milli", 0 if gpus else DEFAULT_CPUS_MILLI)
    return ResourceRequest(**fields)


def _exclusive(layer: Layer) -> bool:
    given = layer.get("exclusive")
    if "memory_mib" in layer:
        return given is not None and given.value
    if given is not None and not given.value:
        raise RequirementError(given.key, given.raw, "needs vram_gb: without it a task gets whole devices")
    return True


def _check_max(layer: Layer) -> None:
    most, memory = layer.get("memory_mib_max"), layer.get("memory_mib")
    if most is None:
        return
    if memory is None:
        raise RequirementError(most.key, most.raw, "needs vram_gb: a whole device can't be raised")
    if most.value < memory.value:
        raise RequirementError(most.key, most.raw, f"at least {memory.key}, which is {memory.raw!r}")


def _check_basis(layer: Layer) -> None:
    given = layer.get("basis")
    if given is not None and given.value is Basis.LEARNED and "memory_mib" not in layer:
        raise RequirementError(given.key, given.raw, "needs vram_gb, which counts until enough was learned")


# One parser a kind of value. Each takes the key, for the error, and the value as written.


def _gpus(key: str, raw: Any) -> int:
    bound = f"true, false or a whole number from 0 to {GPUS_MAX}"
    if not isinstance(raw, int) or not 0 <= raw <= GPUS_MAX:
        raise RequirementError(key, raw, bound)
    return int(raw)


def _flag(key: str, raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise RequirementError(key, raw, "true or false")
    return raw


def _number(key: str, raw: Any, bound: str) -> Fraction:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw) or raw < 0:
        raise RequirementError(key, raw, bound)
    return Fraction(raw)


def _mib(key: str, raw: Any, *, unit_mib: int, most_mib: int, zero: bool) -> int:
    """MiB, rounded up, of a number in units of `unit_mib` or of a string with its own unit."""
    unit = "GiB" if unit_mib == 1024 else "MiB"
    least = "of at least 0" if zero else "above 0"
    bound = f"a number of {unit} {least}, or a string like '12GiB' or '512MB', up to {most_mib // 1024} GiB"
    if isinstance(raw, str):
        match = _AMOUNT.fullmatch(raw.strip())
        if match is None:
            raise RequirementError(key, raw, bound)
        mib = Fraction(match[1]) * _UNIT_BYTES[match[2].lower()] / MIB
    else:
        mib = _number(key, raw, bound) * unit_mib
    if mib > most_mib or (mib == 0 and not zero):
        raise RequirementError(key, raw, bound)
    return math.ceil(mib)


def _vram_gb(key: str, raw: Any) -> int:
    return _mib(key, raw, unit_mib=1024, most_mib=VRAM_MAX_MIB, zero=False)


def _vram_mb(key: str, raw: Any) -> int:
    return _mib(key, raw, unit_mib=1, most_mib=VRAM_MAX_MIB, zero=False)


def _host_memory(key: str, raw: Any) -> int:
    return _mib(key, raw, unit_mib=1024, most_mib=HOST_MEMORY_MAX_MIB, zero=True)


def _cpus(key: str, raw: Any) -> int:
    bound = f"a number from 0 to {CPUS_MAX}"
    cpus = _number(key, raw, bound)
    if cpus > CPUS_MAX:
        raise RequirementError(key, raw, bound)
    return math.ceil(cpus * 1000)


def _expected(key: str, raw: Any) -> int:
    bound = f"a number of seconds above 0, up to {EXPECTED_MAX_S}"
    seconds = _number(key, raw, bound)
    if not 0 < seconds <= EXPECTED_MAX_S:
        raise RequirementError(key, raw, bound)
    return math.ceil(seconds * 1000)


def _is_name(raw: Any) -> bool:
    return isinstance(raw, str) and len(raw.strip()) > 0 and len(raw) <= NAME_MAX


def _name(key: str, raw: Any) -> str:
    if not _is_name(raw):
        raise RequirementError(key, raw, f"a name of 1 to {NAME_MAX} characters")
    return str(raw)


def _names(key: str, raw: Any) -> tuple[str, ...]:
    names = (raw,) if isinstance(raw, str) else raw
    if not isinstance(names, list | tuple) or not names or not all(map(_is_name, names)):
        raise RequirementError(key, raw, "the name of a device type, or a list of them, most wanted first")
    return tuple(dict.fromkeys(names))


def _labels(key: str, raw: Any) -> tuple[tuple[str, str], ...]:
    if (
        not isinstance(raw, Mapping)
        or len(raw) > LABELS_MAX
        or not all(_is_name(name) and isinstance(value, str) for name, value in raw.items())
    ):
        raise RequirementError(key, raw, f"a mapping of at most {LABELS_MAX} label names to strings")
    return tuple(sorted(raw.items()))


def _one_of(choices: type[StrEnum]) -> Callable[[str, Any], StrEnum]:
    def parse(key: str, raw: Any) -> StrEnum:
        if not isinstance(raw, str) or raw not in list(choices):
            raise RequirementError(key, raw, f"one of {', '.join(choices)}")
        return choices(raw)

    return parse


_KEYS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "gpu": ("gpus", _gpus),
    "vram_gb": ("memory_mib", _vram_gb),
    "vram_mb": ("memory_mib", _vram_mb),
    "vram_gb_max": ("memory_mib_max", _vram_gb),
    "exclusive": ("exclusive", _flag),
    "gpu_type": ("gpu_types", _names),
    "cpus": ("cpus_milli", _cpus),
    "memory_gb": ("host_memory_mib", _host_memory),
    "labels": ("labels", _labels),
    "executor": ("executor", _name),
    "isolation": ("isolation", _one_of(Isolation)),
    "on_oom": ("on_oom", _one_of(OnOom)),
    "request": ("basis", _one_of(Basis)),
    "expected_s": ("expected_ms", _expected),
    "preemptible": ("preemptible", _flag),
}
"""Field of `ResourceRequest` and parser by the key that users write."""
