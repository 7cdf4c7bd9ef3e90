"""Keeping a framework within the VRAM that its executor reserved, so that a task over its request fails itself.

Nothing is imported for it. JAX, TensorFlow and CuPy read the environment when they are imported or begin; torch has a
function, called once its CUDA is up. What the user set stays, in the node's environment, in `runtime_env`, in
`forward_env`, or in code later on. The CUDA context, some hundred MiB a process, comes on top of all of these limits.

* JAX: takes XLA_CLIENT_MEM_FRACTION of the device at once, 0.75 where nothing is said. Its older name,
  XLA_PYTHON_CLIENT_MEM_FRACTION, is the one that every version reads; both together are refused (openxla/xla#16457).
* TensorFlow: takes all of the device at once, unless TF_FORCE_GPU_ALLOW_GROWTH is set; no variable has a bound.
* CuPy: CUPY_GPU_MEMORY_LIMIT, bytes of its pool on each device (docs.cupy.dev/en/stable/user_guide/memory.html).
* torch: `torch.cuda.set_per_process_memory_fraction`, a share of `total_memory` for its caching allocator.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from celeray.scheduler.cluster import ExecutorSpec
from celeray.scheduler.model import MIB

logger = logging.getLogger(__name__)

TORCH = "torch"


def framework_environment(spec: ExecutorSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep frameworks within the reservation; none for whole devices.

    Args:
        environ: of the process; what it sets already is left alone.
    """
    if not spec.limit_vram or not spec.device_uuids:
        return {}
    wanted = {
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "CUPY_GPU_MEMORY_LIMIT": str(spec.memory_mib * MIB),
    }
    given = {*environ, *spec.app.environ}
    if "XLA_CLIENT_MEM_FRACTION" not in given:
        wanted["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{spec.share:.4f}"
    return {name: value for name, value in wanted.items() if name not in given}


class TorchLimit:
    """Sets torch's share of each device of the process, once, as soon as its CUDA is up.

    The import of torch is waited for, since a task may import it and allocate within its first run.
    """

    def __init__(self, devices: int, memory_mib: int) -> None:
        """
        Args:
            devices: how many the process sees.
            memory_mib: reserved on each of them.
        """
        self._devices = devices
        self._bytes = memory_mib * MIB
        self._done = False

    def install(self) -> None:
        """Watch for torch's import, or take the torch that is there."""
        if TORCH in sys.modules:
            self._on_imported(sys.modules[TORCH])
        else:
            sys.meta_path.insert(0, _ImportWatch(TORCH, self._on_imported))

    def check(self) -> None:
        """Set it where CUDA is up by now. Between runs, for a torch that has no list of calls for when it comes up."""
        if not self._done and (torch := sys.modules.get(TORCH)) is not None:
            self._apply_if_up(torch)

    def _on_imported(self, torch: ModuleType) -> None:
        if self._apply_if_up(torch):
            return
        # Private, and the only way to come before the first allocation: the list of what torch itself, for instance
        # `torch.cuda.manual_seed`, does once CUDA is up. Without it `check` is what is left.
        later = getattr(getattr(torch, "cuda", None), "_lazy_call", None)
        if callable(later):
            later(lambda: self._apply(torch))

    def _apply_if_up(self, torch: ModuleType) -> bool:
        cuda: Any = getattr(torch, "cuda", None)
        try:
            up = bool(cuda.is_initialized())
        except Exception:  # noqa: BLE001 - a torch without CUDA, or something else of that name
            return False
        return up and self._apply(torch)

    def _apply(self, torch: ModuleType) -> bool:
        """Never raises: an exception here would be the task's failure."""
        if self._done:
            return True
        self._done = True
        cuda: Any = getattr(torch, "cuda", None)
        try:
            for device in range(min(self._devices, cuda.device_count())):
                total = cuda.get_device_properties(device).total_memory
                cuda.set_per_process_memory_fraction(min(1.0, self._bytes / total), device)
        except Exception as error:  # noqa: BLE001 - see above
            logger.warning("torch can't be kept within %d MiB of VRAM: %r", self._bytes // MIB, error)
        return True


class _ImportWatch:
    """A finder that finds nothing itself: it tells when a module was imported, and leaves with that."""

    def __init__(self, name: str, on_imported: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._on_imported = on_imported

    def find_spec(
        self, name: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            # Not there yet: a task may add to the path, so the next import asks again.
            sys.meta_path.insert(0, self)
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            try:
                execute(module)
            except BaseException:
                # The next import asks again.
                sys.meta_path.insert(0, self)
                raise
            self._on_imported(module)

        # Of this one loader, which was made for this one import.
        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def torch_limit(spec: ExecutorSpec) -> TorchLimit | None:
    """The limit of an executor, installed; None where it has whole devices or none."""
    if not spec.limit_vram or not spec.device_uuids:
        return None
    limit = TorchLimit(len(spec.device_uuids), spec.memory_mib)
    limit.install()
    return limit


def limit_frameworks(spec: ExecutorSpec) -> TorchLimit | None:
    """Prepare this process; before anything of the user's is imported."""
    os.environ.update(framework_environment(spec, os.environ))
    return torch_limit(spec)
