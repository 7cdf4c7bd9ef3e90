"""The one tree of errors that celeray raises. A message names the key, the value and the bound."""

from __future__ import annotations

from typing import Any


class CelerayError(Exception):
    """Root of every error of celeray's own."""


class CelerayWarning(UserWarning):
    """A setting of the app breaks one of celeray's promises; the message names the setting."""


class ConfigurationError(CelerayError):
    """A setting is unknown, out of its bound, or contradicts another one."""


class RequirementError(CelerayError, ValueError):
    """A resource requirement or a flag can't be understood; refused at publish.

    Attributes:
        key: the offending key, for instance ``vram_gb``.
        value: what was given.
        bound: what would have been accepted, in words.
    """

    def __init__(self, key: str, value: Any, bound: str) -> None:
        # args carry all three, so that the error survives pickling on its way through a result backend.
        super().__init__(key, value, bound)
        self.key = key
        self.value = value
        self.bound = bound

    def __str__(self) -> str:
        return f"resource_requirements: {self.key}={self.value!r}: {self.bound}"


class NeverFitsError(RequirementError):
    """No device or node of the known cluster could ever hold the request."""


class FlagError(RequirementError):
    """A flag about urgency, such as `priority`, can't be understood; refused at publish."""

    def __str__(self) -> str:
        return f"{self.key}={self.value!r}: {self.bound}"


class LedgerError(CelerayError):
    """A reservation would exceed what a device or node can hold: a defect of the caller, never of a user."""


class ClusterError(CelerayError):
    """Ray can't be reached, or refuses what the cluster protocol asks."""


class MessageTooLargeError(CelerayError, ValueError):
    """A message is larger than the broker may be asked to hold; refused at publish.

    Attributes:
        queue: where it was going.
        size: its bytes, as they would be in Redis.
        bound: `max_message_bytes`.
    """

    def __init__(self, queue: str, size: int, bound: int) -> None:
        super().__init__(queue, size, bound)
        self.queue = queue
        self.size = size
        self.bound = bound

    def __str__(self) -> str:
        return (
            f"message of {self.size} bytes for {self.queue!r}: at most max_message_bytes={self.bound}; "
            "pass a reference to large data, or raise broker_transport_options.max_message_bytes"
        )
