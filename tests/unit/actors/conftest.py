"""The fake NVML library, loaded into this process."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from tests.fake_nvml import STATE_VARIABLE, FakeDevice, FakeNvml, build

MakeNvml = Callable[..., FakeNvml]


@pytest.fixture
def make_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeNvml:
    """Makes devices that the real bindings in this process read: `make_nvml(*devices, old_driver=False, errors={})`."""

    def make(
        *devices: FakeDevice, old_driver: bool = False, errors: dict[str, int] | None = None
    ) -> FakeNvml:
        fake = FakeNvml(tmp_path / "nvml", list(devices), errors=errors)
        monkeypatch.setenv(STATE_VARIABLE, str(fake.path))
        # What the bindings keep of a library, so that each test loads the one it asks for.
        monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(build(old_driver=old_driver))))
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        return fake

    return make
