"""Frameworks are kept within the reservation: torch by a call once its CUDA is up, the others by their environment."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celeray.actors.memory_limits import TorchLimit, framework_environment, torch_limit
from celeray.scheduler.cluster import AppSpec, ExecutorSpec
from celeray.scheduler.model import MIB

TORCH = """
class _Cuda:
    '''As much of torch.cuda as the limit uses, with torch's own rule: queued calls run when CUDA comes up.'''
    def __init__(self):
        self.up, self.queued, self.fractions = False, [], {}
    def is_initialized(self):
        return self.up
    def _lazy_call(self, call):
        call() if self.up else self.queued.append(call)
    def init(self):
        self.up = True
        for call in self.queued:
            call()
    def device_count(self):
        return 2
    def get_device_properties(self, device):
        return type('Properties', (), {'total_memory': (24 + 56 * device) << 30})
    def set_per_process_memory_fraction(self, fraction, device):
        assert self.up
        self.fractions[device] = fraction
cuda = _Cuda()
"""


@pytest.fixture
def torch_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of torch's name can be imported; afterwards nothing is left of it."""
    finders = list(sys.meta_path)
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    yield tmp_path / "torch.py"
    sys.modules.pop("torch", None)
    sys.meta_path[:] = finders


def cuda() -> Any:
    return importlib.import_module("torch").cuda


def shares(gib: int) -> dict[int, float]:
    """Of the two devices, 24 and 80 GiB."""
    return {0: gib / 24, 1: gib / 80}


def test_it_is_set_when_cuda_comes_up_in_the_very_first_run(torch_there: Path) -> None:
    TorchLimit(2, 8 * 1024).install()
    assert "torch" not in sys.modules, "nothing is imported for it"
    torch = cuda()
    assert torch.fractions == {}, "and no CUDA context is made for it"
    torch.init()
    assert torch.fractions == pytest.approx(shares(8))


def test_a_torch_that_is_there_already(torch_there: Path) -> None:
    torch = cuda()
    TorchLimit(1, 12 * 1024).install()
    torch.init()
    assert torch.fractions == pytest.approx({0: 0.5})
    second = TorchLimit(1, 6 * 1024)
    second.install()
    assert torch.fractions == pytest.approx({0: 0.25}), "CUDA was up before"


def test_what_the_task_sets_itself_stays(torch_there: Path) -> None:
    limit = TorchLimit(1, 12 * 1024)
    limit.install()
    torch = cuda()
    torch.init()
    torch.set_per_process_memory_fraction(0.9, 0)
    limit.check()
    assert torch.fractions == {0: 0.9}


def test_a_torch_without_a_list_of_calls_is_limited_from_its_second_run(torch_there: Path) -> None:
    torch_there.write_text(TORCH.replace("_lazy_call", "_other"))
    limit = TorchLimit(1, 12 * 1024)
    limit.install()
    torch = cuda()
    torch.init()
    assert torch.fractions == {}
    limit.check()
    assert torch.fractions == pytest.approx({0: 0.5})


def test_a_torch_that_refuses_fails_no_task(torch_there: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch_there.write_text(TORCH + "_Cuda.set_per_process_memory_fraction = None\n")
    limit = TorchLimit(1, 12 * 1024)
    limit.install()
    torch = cuda()
    with caplog.at_level(logging.WARNING):
        torch.init()
        limit.check()
    (record,) = caplog.records
    assert "12288 MiB" in record.getMessage()


def test_a_torch_without_cuda(torch_there: Path) -> None:
    torch_there.write_text("")
    limit = TorchLimit(1, 8 * 1024)
    limit.install()
    importlib.import_module("torch")
    limit.check()


def test_no_torch_is_found_as_ever(torch_there: Path) -> None:
    torch_there.unlink()
    sys.path_importer_cache.clear()
    TorchLimit(1, 8 * 1024).install()
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("torch")
    torch_there.write_text(TORCH)
    importlib.invalidate_caches()
    torch = cuda()
    torch.init()
    assert torch.fractions == pytest.approx({0: 8 / 24}), "it came later"


def spec(**fields: Any) -> ExecutorSpec:
    values: dict[str, Any] = {
        "executor_id": "e1",
        "executor_class": "c",
        "node_id": "n",
        "device_uuids": ("GPU-a",),
        "share": 0.33334,
        "memory_mib": 8192,
        "app": AppSpec("a", "/", "h"),
        "limit_vram": True,
    }
    return ExecutorSpec(**values | fields)


def test_the_environment_of_the_others() -> None:
    assert framework_environment(spec(), {}) == {
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "CUPY_GPU_MEMORY_LIMIT": str(8192 * MIB),
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3333",
    }


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, {"CUPY_GPU_MEMORY_LIMIT", "TF_FORCE_GPU_ALLOW_GROWTH"}),
        ({"XLA_CLIENT_MEM_FRACTION": ".5"}, {"CUPY_GPU_MEMORY_LIMIT", "TF_FORCE_GPU_ALLOW_GROWTH"}),
        ({"CUPY_GPU_MEMORY_LIMIT": "0"}, {"XLA_PYTHON_CLIENT_MEM_FRACTION", "TF_FORCE_GPU_ALLOW_GROWTH"}),
    ],
)
@pytest.mark.parametrize("by", ["node", "forward_env"])
def test_what_the_user_set_stays(given: dict[str, str], left: set[str], by: str) -> None:
    app = AppSpec("a", "/", "h", environ=given if by == "forward_env" else {})
    environ = given if by == "node" else {}
    assert set(framework_environment(spec(app=app), environ)) == left


@pytest.mark.parametrize("fields", [{"limit_vram": False}, {"device_uuids": ()}])
def test_whole_devices_and_none_are_not_limited(fields: dict[str, Any]) -> None:
    assert framework_environment(spec(**fields), {}) == {}
    assert torch_limit(spec(**fields)) is None
