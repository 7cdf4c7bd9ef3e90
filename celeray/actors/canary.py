"""A canary: ``python -m celeray.actors.canary UUID`` looks whether one device can be used, and ends.

It asks NVML for the device's health and memory; where torch or cupy is there with CUDA, it allocates on the device and
computes. A process of its own, since a bad device may hang or abort who touches it. It passed where it exits with 0
and its last line is `PASSED`; else that line says why.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType

import pynvml

from celeray.actors.health import read_health
from celeray.actors.nvml_query import DeviceLostError, DriverLostError, query
from celeray.scheduler.model import Health

SIDE = 512
"""Of the matrix that is computed: 1 MiB in single precision."""
FAILED = 1
PASSED = "passed"
"""The last line where the device can be used."""


def check(uuid: str) -> str | None:
    """Why the device can't be used; None: it can."""
    try:
        if reason := _check_nvml(uuid):
            return reason
        # A card whose slices are in use computes nothing itself.
        return None if is_cut_into_slices(uuid) else _check_compute(uuid)
    except (DeviceLostError, DriverLostError) as error:
        return f"NVML: {error}"
    except Exception as error:  # noqa: BLE001 - whatever a library raises on a bad device is the finding
        return f"{type(error).__name__}: {error}"


def _check_nvml(uuid: str) -> str | None:
    query(pynvml.nvmlInit)
    handle = query(pynvml.nvmlDeviceGetHandleByUUID, uuid)
    if handle is None:
        return "NVML does not find the device"
    health, reason = read_health(handle)
    if health is Health.UNHEALTHY:
        return reason or "unhealthy"
    memory = query(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return None if memory is not None else "NVML can't read its memory"


def is_cut_into_slices(uuid: str) -> bool:
    """Whether MIG mode is on."""
    modes = query(pynvml.nvmlDeviceGetMigMode, query(pynvml.nvmlDeviceGetHandleByUUID, uuid))
    return modes is not None and modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def _check_compute(uuid: str) -> str | None:
    # Before the libraries are imported: they choose their devices then.
    os.environ["CUDA_VISIBLE_DEVICES"] = uuid
    checks: tuple[tuple[str, Callable[[ModuleType], str | None]], ...] = (
        ("torch", _check_torch),
        ("cupy", _check_cupy),
    )
    for name, compute in checks:
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        return compute(library)
    return None


def _check_torch(torch: ModuleType) -> str | None:
    if torch.version.cuda is None:
        return None
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    ones = torch.ones((SIDE, SIDE), device="cuda")
    return _wrong(float((ones @ ones).sum().item()))


def _check_cupy(cupy: ModuleType) -> str | None:
    if cupy.cuda.runtime.getDeviceCount() < 1:
        return "cupy finds no CUDA device"
    ones = cupy.ones((SIDE, SIDE), dtype=cupy.float32)
    return _wrong(float((ones @ ones).sum()))


def _wrong(total: float) -> str | None:
    """A product of two matrices of ones has SIDE everywhere; all numbers on the way are exact in single precision."""
    return None if total == float(SIDE**3) else f"computed {total!r} instead of {SIDE**3}"


def main() -> None:
    """Check the device that the first argument names, and exit."""
    reason = check(sys.argv[1])
    sys.stdout.write(f"{reason or PASSED}\n")
    sys.exit(FAILED if reason else 0)


if __name__ == "__main__":
    main()
