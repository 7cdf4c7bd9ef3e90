"""A device's health by what NVML says of it.

Unknown is not bad: consumer cards support none of these calls. A device is healthy when at least one call answered
and none of them found a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pynvml

from celeray.actors.nvml_query import query
from celeray.scheduler.model import Health

RECOVERY_ACTIONS = {
    pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET: "reset the GPU",
    pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: "reboot the node",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P: "drain peer-to-peer traffic",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET: "drain and reset the GPU",
}
"""What the driver asks for, by the value of the field GPU_RECOVERY_ACTION; any other but 0 is named by its number."""


def read_health(handle: Any) -> tuple[Health, str | None]:
    """Health of one device, with the first reason where it is bad.

    Raises:
        DeviceLostError, DriverLostError: as `nvml_query.query`.
    """
    answered = False
    for answer, reason in _checks(handle):
        if reason is not None:
            return Health.UNHEALTHY, reason
        answered = answered or answer
    return (Health.HEALTHY if answered else Health.UNKNOWN), None


Check = Callable[[Any], tuple[bool, str | None]]
"""Whether NVML answered, and the reason why the device is bad."""


def _checks(handle: Any) -> Iterator[tuple[bool, str | None]]:
    checks: tuple[Check, ...] = (_recovery_action, _remapped_rows, _retired_pages, _ecc_errors)
    for check in checks:
        yield check(handle)


def _recovery_action(handle: Any) -> tuple[bool, str | None]:
    # The newest and best bit, of recent drivers only.
    fields = query(pynvml.nvmlDeviceGetFieldValues, handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    if fields is None or fields[0].nvmlReturn != pynvml.NVML_SUCCESS:
        return False, None
    action = int(fields[0].value.uiVal)
    if action == pynvml.NVML_GPU_RECOVERY_ACTION_NONE:
        return True, None
    return True, f"the driver asks to {RECOVERY_ACTIONS.get(action, f'recover by action {action}')}"


def _remapped_rows(handle: Any) -> tuple[bool, str | None]:
    rows = query(pynvml.nvmlDeviceGetRemappedRows, handle)
    if rows is None:
        return False, None
    *_, pending, failed = rows
    if failed:
        return True, "remapping of memory rows failed"
    return True, "remapping of memory rows waits for a reset" if pending else None


def _retired_pages(handle: Any) -> tuple[bool, str | None]:
    # Before Ampere; later cards remap rows instead.
    pending = query(pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle)
    return pending is not None, "retirement of memory pages waits for a reboot" if pending else None


def _ecc_errors(handle: Any) -> tuple[bool, str | None]:
    errors = query(
        pynvml.nvmlDeviceGetTotalEccErrors,
        handle,
        pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
        pynvml.NVML_VOLATILE_ECC,
    )
    reason = f"{errors} uncorrected ECC errors since the driver was loaded" if errors else None
    return errors is not None, reason
