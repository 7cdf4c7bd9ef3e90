"""What an executor does, without Ray: load the app, run tasks one after the other, leave.

A run and its end cross Ray as bytes, which Ray hands on as they are; any other value would be pickled by it, slowly, at
each end. The end of a run is the very frame that the driver passes to the bridge, behind one byte that says which.
"""

from __future__ import annotations

import gc
import pickle
import time
from collections.abc import Sequence

import psutil
from celery import Celery
from celery.app.trace import fast_trace_task

from celeray.actors import simulated
from celeray.actors.app_loading import announce_shutdown, load_app, prepare_environment
from celeray.actors.batch import Batch, End
from celeray.actors.channel import encode
from celeray.actors.journal import Journal
from celeray.actors.memory_limits import TorchLimit, limit_frameworks
from celeray.actors.meters import open_meter
from celeray.actors.peaks import Peak, PeakWatch
from celeray.actors.soft_limit import SoftTimeLimit
from celeray.actors.tracing import Left, RanOut, run_task
from celeray.scheduler.cluster import ExecutorSpec, RunEnded, RunOutOfMemory, RunSpec
from celeray.scheduler.model import MIB

ENDED = b"E"
"""Before a frame of `RunEnded`, `RunReturned` and `RunOutOfMemory`."""
LEFT = b"L"
"""Before the text of why a task ended its process."""


class ExecutorCore:
    """One process that runs tasks of one executor class. Its methods are called in the main thread."""

    def __init__(self, spec: ExecutorSpec, holds_folder: str | None = None) -> None:
        """Prepare; nothing of the user's is imported before `load`.

        Args:
            spec: what to load and which devices it may see.
            holds_folder: of the node's simulated devices; None where devices are real or there are none.
        """
        self._spec = spec
        self._holds_folder = holds_folder
        self._limit = SoftTimeLimit(fast_trace_task)
        self._process = psutil.Process()
        self._app: Celery | None = None
        self._journal: Journal | None = None
        """Made with the first batch."""
        self._holding = False
        self._torch_limit: TorchLimit | None = None
        self._peaks: PeakWatch | None = None

    def load(self) -> None:
        """Set the environment, import the app and become ready for `run`.

        Raises:
            Exception: whatever the import of the app raises.
        """
        prepare_environment(self._spec)
        self._peaks = _peak_watch(self._spec, self._holds_folder)
        if self._holds_folder is not None and self._spec.device_uuids:
            most = self._spec.memory_mib if self._spec.limit_vram else None
            simulated.register(self._holds_folder, self._spec.device_uuids, most)
        self._torch_limit = limit_frameworks(self._spec)
        self._app = load_app(self._spec.app)
        self._limit.install()
        # What was imported stays, so no collection has to walk it: a model's libraries are a million objects.
        gc.collect()
        gc.freeze()

    def run(self, runs: Sequence[RunSpec]) -> bytes:
        """Run tasks one after the other; raises nothing that a task raised.

        Returns:
            `ENDED` and the frame to pass to the bridge, or `LEFT` and a text in UTF-8.
        """
        self._hold_reservation()
        if self._torch_limit is not None:
            self._torch_limit.check()
        if self._peaks is not None:
            self._peaks.begin()
        ends = self._run_one(runs[0]) if len(runs) == 1 else self._run_batch(runs)
        peak = None if self._peaks is None else self._peaks.end()
        if isinstance(ends, Left):
            return LEFT + ends.detail.encode()
        if peak is not None:
            ends = [_with_peak(end, peak) for end in ends]
        last = ends[-1]
        if isinstance(last, RunEnded):
            ends[-1] = last._replace(rss_mib=self._rss_mib())
        return ENDED + encode(ends)

    def _run_one(self, run: RunSpec) -> list[End] | Left:
        begin = time.monotonic()
        outcome = self._trace(run)
        if isinstance(outcome, Left):
            return outcome
        if isinstance(outcome, RanOut):
            return [RunOutOfMemory(self._spec.executor_id, run.run_id, outcome.detail)]
        seconds = time.monotonic() - begin
        return [RunEnded(self._spec.executor_id, run.run_id, outcome, None, seconds)]

    def _run_batch(self, runs: Sequence[RunSpec]) -> list[End] | Left:
        assert self._app is not None
        if self._journal is None:
            self._journal = Journal(self._spec.executor_id)
        return Batch(self._spec.executor_id, self._journal, self._app.backend).run(runs, self._trace)

    def _trace(self, run: RunSpec) -> bytes | Left | RanOut:
        assert self._app is not None
        # The bridge pickled it from Celery's own request; the body inside is decoded by accept_content.
        arguments = pickle.loads(run.payload)  # noqa: S301
        return run_task(
            self._app,
            arguments,
            self._limit,
            run.soft_time_limit,
            may_place_again=run.may_place_again,
        )

    def shutdown(self) -> None:
        """Send Celery's shutdown signal, as a prefork child does that ends by itself."""
        if self._app is not None:
            announce_shutdown(self._spec.app.hostname)
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _hold_reservation(self) -> None:
        # With the first task, as a model is loaded then; a later hold() of a task stays.
        if not self._holding and self._holds_folder is not None:
            simulated.hold_reserved(self._spec.memory_mib)
        self._holding = True

    def _rss_mib(self) -> int | None:
        try:
            return int(self._process.memory_info().rss // MIB)
        except psutil.Error:
            return None


def _peak_watch(spec: ExecutorSpec, holds_folder: str | None) -> PeakWatch | None:
    """None: the executor has no device, nothing can be told of it, or nobody wants to know."""
    if not spec.device_uuids or not spec.peak_interval_s:
        return None
    meter = open_meter(spec.device_uuids, holds_folder)
    return None if meter is None else PeakWatch(meter, len(spec.device_uuids), spec.peak_interval_s)


def _with_peak(end: End, peak: Peak) -> End:
    if not isinstance(end, RunEnded):
        return end
    return end._replace(peak_mib=peak.mib, attribution=peak.attribution.value)
