"""What frameworks that an executor has loaded tell of their own memory. None of them is ever imported here.

torch's caching allocator keeps the peak of what it reserved from the driver, so a spike that no look at the device
met is in it (https://docs.pytorch.org/docs/stable/generated/torch.cuda.memory.max_memory_reserved.html). It does not
count the CUDA context, nor what other libraries in the process take.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from celeray.scheduler.model import MIB

logger = logging.getLogger(__name__)

CONTEXT_MIB = 512
"""Taken for context and kernels where the device does not tell: 300 to 600 MiB are usual, by driver and card."""


class TorchMemory:
    """Of this process. Without torch, or before CUDA is initialised, nothing is known and nothing happens."""

    def __init__(self, devices: int) -> None:
        """
        Args:
            devices: how many this process sees; torch numbers them in the order of CUDA_VISIBLE_DEVICES.
        """
        self._devices = devices
        self._failed = False

    def begin(self) -> None:
        """The peak counts anew, from what is reserved now."""
        if (cuda := self._cuda()) is not None:
            self._each(cuda.reset_peak_memory_stats)

    def reserved_mib(self) -> list[int] | None:
        """What it has from each device now."""
        cuda = self._cuda()
        return None if cuda is None else _mib(self._each(cuda.memory_reserved))

    def most_mib(self) -> list[int] | None:
        """The most since `begin`."""
        cuda = self._cuda()
        return None if cuda is None else _mib(self._each(cuda.max_memory_reserved))

    def _cuda(self) -> Any | None:
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        try:
            return cuda if cuda is not None and not self._failed and cuda.is_initialized() else None
        except Exception as error:  # noqa: BLE001 - another library's code, and only a statistic
            self._fail(error)
            return None

    def _each(self, ask: Any) -> list[Any] | None:
        try:
            return [ask(device) for device in range(self._devices)]
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        self._failed = True
        logger.warning("torch does not tell what it has reserved, so it is not asked again: %r", error)


def _mib(amounts: list[Any] | None) -> list[int] | None:
    return None if amounts is None else [-(-int(amount) // MIB) for amount in amounts]
