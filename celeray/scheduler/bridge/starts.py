"""Classes whose executors do not start: tried again after a backoff, never for ever at full speed."""

from __future__ import annotations

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0


class StartFailures:
    """Failed starts in a row, by executor class. Exponential from 1 s to 60 s."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[int, float]] = {}

    def failed(self, executor_class: str, now: float) -> float:
        """Note a failure and return the monotonic time of the next try."""
        failures = self._failures.get(executor_class, (0, 0.0))[0] + 1
        retry_at = now + min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (failures - 1))
        self._failures[executor_class] = (failures, retry_at)
        return retry_at

    def succeeded(self, executor_class: str) -> None:
        """An executor of the class is up."""
        self._failures.pop(executor_class, None)

    def blocked(self, executor_class: str, now: float) -> bool:
        """Whether the next try is still to come."""
        failures = self._failures.get(executor_class)
        return failures is not None and now < failures[1]

    @property
    def retry_times(self) -> tuple[float, ...]:
        """When the classes that failed are tried again."""
        return tuple(retry_at for _, retry_at in self._failures.values())
