"""One wrapper for every NVML call, so that each error has one meaning.

| error | becomes |
|---|---|
| not supported, no permission, function not found, version mismatch, timeout | None: unknown, never zero |
| GPU is lost, reset required | `DeviceLostError`: the device is unhealthy |
| uninitialised, driver not loaded, library and driver differ | `DriverLostError`: initialise again |
| any other | None, and one warning for each function and code |
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pynvml

from celeray.scheduler.errors import CelerayError

UNKNOWN_CODES = frozenset(
    {
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_TIMEOUT,
    }
)
DEVICE_LOST_CODES = frozenset({pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED})
DRIVER_LOST_CODES = frozenset(
    {
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    }
)

logger = logging.getLogger(__name__)
_warned: set[tuple[str, int]] = set()


class DeviceLostError(CelerayError):
    """The device no longer answers, or must be reset."""


class DriverLostError(CelerayError):
    """NVML as a whole does not answer."""


def query(function: Callable[..., Any], *args: Any) -> Any:
    """Call one NVML function; None where the device or driver can't tell.

    Raises:
        DeviceLostError, DriverLostError: see the module's table.
    """
    return query_or(function, *args)[0]


def query_or(
    function: Callable[..., Any], *args: Any, unknown: frozenset[int] = frozenset()
) -> tuple[Any, int | None]:
    """Like `query`, and the error's code where the value is None, for the callers that go on from it.

    A missing symbol counts as FUNCTION_NOT_FOUND; it comes as `NVMLLibraryMismatchError`, which is no `NVMLError`.

    Args:
        unknown: codes that say of this function that the device can't tell, beside those that always do.

    Raises:
        DeviceLostError, DriverLostError: see the module's table.
    """
    try:
        return function(*args), None
    except pynvml.NVMLLibraryMismatchError:
        return None, int(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    except pynvml.NVMLError as error:
        code = int(error.value)
        if code in DEVICE_LOST_CODES:
            raise DeviceLostError(str(error)) from error
        if code in DRIVER_LOST_CODES:
            raise DriverLostError(str(error)) from error
        if code not in UNKNOWN_CODES | unknown and (key := (function.__name__, code)) not in _warned:
            _warned.add(key)
            logger.warning("%s failed with NVML error %d (%s): taken as unknown", *key, error)
        return None, code
