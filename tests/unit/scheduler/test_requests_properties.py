"""Properties of requests over generated requirements."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.errors import RequirementError
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.requests import GPUS_MAX, VRAM_MAX_MIB, effective_request, merge_raw
from celeray.scheduler.routing import TaskRouter
from celeray.scheduler.settings import Settings

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    [
        "gpu",
        "vram_gb",
        "vram_mb",
        "vram_gb_max",
        "exclusive",
        "gpu_type",
        "cpus",
        "memory_gb",
        "labels",
        "executor",
    ]
)
GOOD = st.fixed_dictionaries(
    {},
    optional={
        "gpu": st.booleans() | st.integers(0, 8),
        "vram_gb": st.floats(0.001, 1000) | st.integers(1, 1000).map(lambda n: f"{n}GiB"),
        "cpus": st.integers(0, 64) | st.floats(0, 64),
        "memory_gb": st.integers(0, 512),
        "gpu_type": st.sampled_from(["A100", ["H100", "A100"]]),
        "labels": st.dictionaries(st.text("abc", min_size=1, max_size=3), st.text(max_size=3), max_size=3),
    },
)
SOUND = GOOD.filter(lambda layer: layer.get("gpu", 1) or not {"vram_gb", "gpu_type"} & set(layer))
"""A layer that says `gpu: false` and asks for a device contradicts itself."""
LAYER = st.none() | SOUND
ROUTER = TaskRouter(Settings())


def assert_sound(request: ResourceRequest) -> None:
    assert 0 <= request.gpus <= GPUS_MAX
    assert request.cpus_milli >= 0
    assert request.host_memory_mib >= 0
    if request.gpus == 0:
        assert request.memory_mib is None
        assert not request.exclusive
        assert request.gpu_types == ()
        assert request.memory_mib_max is None
    elif request.memory_mib is None:
        assert request.exclusive
    else:
        assert 1 <= request.memory_mib <= VRAM_MAX_MIB
        assert request.memory_mib_max is None or request.memory_mib_max >= request.memory_mib
    assert list(request.labels) == sorted(request.labels)


def outcome(layer: Any) -> ResourceRequest | RequirementError:
    try:
        return effective_request(layer, None, None)
    except RequirementError as error:
        return error


@given(st.dictionaries(KEYS, JSON, max_size=5) | JSON)
def test_anything_is_either_sound_or_refused_by_name(layer: Any) -> None:
    result = outcome(layer)
    if isinstance(result, RequirementError):
        assert result.key
        assert result.bound in str(result)
    else:
        assert_sound(result)


@given(LAYER, LAYER, st.sampled_from([None, {"gpu": True}]))
def test_merged_requests_are_sound_and_hashable(header: Any, attribute: Any, default: Any) -> None:
    request = effective_request(header, attribute, default)
    assert_sound(request)
    assert hash(request) == hash(effective_request(header, attribute, default))


@given(SOUND, SOUND)
def test_merging_raw_is_merging(upper: Any, lower: Any) -> None:
    merged = merge_raw(upper, lower)
    assert effective_request(merged, None, None) == effective_request(upper, lower, None)


@given(LAYER, LAYER, st.sampled_from(["gpu.generation", "cpu.analysis"]))
def test_the_router_remembers_what_parsing_says(header: Any, attribute: Any, queue: str) -> None:
    default = {"gpu": True} if queue == "gpu.generation" else None
    expected = effective_request(header, attribute, default)
    for _ in range(2):
        assert ROUTER.request_for({"resource_requirements": header}, attribute, queue) == expected
