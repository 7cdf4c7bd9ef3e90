"""The one tree of errors that celeray raises. A message names the key, the value and the bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

KNOWN_SHOWN = 20
"""Names of devices or nodes in an error; a cluster may have thousands."""


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


class OutOfGpuMemoryError(CelerayError):
    """GPU memory ran out. A task may raise it itself, where its library's own error would not be recognised."""


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


class PauseUnsupportedError(ConfigurationError):
    """The app's broker or transport has nobody who would honour a paused queue."""


class UnknownQueueError(CelerayError):
    """No settings and no bridge name the queue.

    Attributes:
        queue: what was given.
        known: the queues that there are.
    """

    def __init__(self, queue: str, known: Sequence[str]) -> None:
        super().__init__(queue, known)
        self.queue = queue
        self.known = known

    def __str__(self) -> str:
        return f"no queue {self.queue!r}; there are {', '.join(self.known)}"


class UnknownSubjectError(CelerayError):
    """No bridge sees the device or node that an operator named, and it is not drained.

    Attributes:
        kind: `device` or `node`.
        name: what was given.
        known: those that there are.
    """

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        super().__init__(kind, name, known)
        self.kind = kind
        self.name = name
        self.known = known

    def __str__(self) -> str:
        shown = ", ".join(self.known[:KNOWN_SHOWN]) or "none, or no bridge is up"
        more = f" and {len(self.known) - KNOWN_SHOWN} more" if len(self.known) > KNOWN_SHOWN else ""
        return f"no {self.kind} {self.name[:80]!r}; there are {shown}{more}"


class NothingLearnedError(CelerayError):
    """Nothing is known of the VRAM that runs of a task used.

    Attributes:
        task: its name.
        gpu_type: the device model that was asked about. None: any.
    """

    def __init__(self, task: str, gpu_type: str | None = None) -> None:
        super().__init__(task, gpu_type)
        self.task = task
        self.gpu_type = gpu_type

    def __str__(self) -> str:
        where = "" if self.gpu_type is None else f" on {self.gpu_type!r}"
        return f"nothing was learned of task {self.task!r}{where}; `celeray get learned` lists what was"


class OperatorInputError(CelerayError, ValueError):
    """What an operator said about a change can't be kept; names what, the value and the bound."""

    def __init__(self, key: str, value: str, bound: str) -> None:
        super().__init__(key, value, bound)
        self.key = key
        self.value = value
        self.bound = bound

    def __str__(self) -> str:
        return f"{self.key}={self.value[:80]!r}: expected {self.bound}"


class SubmissionError(RequirementError):
    """What a call says about its submission can't be understood or kept; refused at publish."""

    def __str__(self) -> str:
        return f"{self.key}={self.value!r}: {self.bound}"


class SubmissionUnsupportedError(SubmissionError):
    """The app's broker has no atomic writes: only Redis can do it."""


class DuplicateTaskError(CelerayError):
    """A deduplicated task is part of a workflow and a first submission has its key: the workflow would wait for ever.

    Attributes:
        task: its name.
        task_id: of the duplicate.
        first_id: task id of the first submission.
        linked: somebody waits for this very submission; otherwise its caller gets the first one's result.
    """

    def __init__(self, task: str, task_id: str, first_id: str, linked: bool = False) -> None:
        super().__init__(task, task_id, first_id, linked)
        self.task = task
        self.task_id = task_id
        self.first_id = first_id
        self.linked = linked

    def __str__(self) -> str:
        return (
            f"{self.task} is a duplicate of {self.first_id}, and here it is part of a chain, a group or a chord, or "
            "has links: these would wait for ever; submit it alone, or without deduplicate"
        )


class BatchRefusedError(CelerayError, ValueError):
    """A batch can't be submitted; nothing of it was.

    Attributes:
        index: of the signature that is the reason, from 0. None: the batch as a whole.
        reason: what is wrong, in words.
    """

    def __init__(self, index: int | None, reason: str) -> None:
        super().__init__(index, reason)
        self.index = index
        self.reason = reason

    def __str__(self) -> str:
        where = "submit_batch" if self.index is None else f"submit_batch: signature {self.index}"
        return f"{where}: {self.reason}; nothing was submitted"


class LimitError(RequirementError):
    """A limit can't be understood, or a call has no value for a limit's key; refused at publish."""

    def __str__(self) -> str:
        return f"limits: {self.key}={self.value!r}: {self.bound}"
