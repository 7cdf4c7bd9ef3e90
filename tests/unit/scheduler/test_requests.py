"""How requirements are read and merged, and that what can't be understood is named."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.scheduler.errors import RequirementError
from celeray.scheduler.model import Basis, Isolation, OnOom, ResourceRequest
from celeray.scheduler.requests import effective_request, merge_raw

GPU_DEFAULT = {"gpu": True}


def of(layer: Any) -> ResourceRequest:
    return effective_request(None, layer, None)


class TestOneLayer:
    def test_nothing_asked_is_one_cpu(self) -> None:
        assert of(None) == of({}) == ResourceRequest(cpus_milli=1000)

    def test_a_gpu_without_vram_is_whole_devices_and_no_cpu(self) -> None:
        assert of({"gpu": True}) == ResourceRequest(gpus=1, exclusive=True)
        assert of({"gpu": 4}) == ResourceRequest(gpus=4, exclusive=True)

    def test_vram_implies_one_gpu_that_is_shared(self) -> None:
        assert of({"vram_gb": 12}) == ResourceRequest(gpus=1, memory_mib=12 * 1024)

    def test_a_type_or_exclusive_alone_implies_one_gpu(self) -> None:
        assert of({"gpu_type": "A100"}) == ResourceRequest(gpus=1, exclusive=True, gpu_types=("A100",))
        assert of({"exclusive": True}) == ResourceRequest(gpus=1, exclusive=True)

    @pytest.mark.parametrize("none", [False, 0])
    def test_gpu_false_and_a_device_in_one_breath_is_a_mistake(self, none: Any) -> None:
        with pytest.raises(RequirementError, match="contradicts"):
            of({"gpu": none, "vram_gb": 12})

    @pytest.mark.parametrize("none", [False, 0])
    def test_gpu_false_above_drops_all_that_concerns_devices(self, none: Any) -> None:
        below = {"vram_gb": 12, "vram_gb_max": 20, "gpu_type": ["A100"], "exclusive": True}
        assert effective_request({"gpu": none}, below, None) == ResourceRequest(cpus_milli=1000)

    def test_exclusive_with_vram_keeps_both(self) -> None:
        assert of({"vram_gb": 4, "exclusive": True}) == ResourceRequest(
            gpus=1, memory_mib=4096, exclusive=True
        )

    @pytest.mark.parametrize(
        ("key", "value", "mib"),
        [
            ("vram_gb", 12, 12 * 1024),
            ("vram_gb", 0.5, 512),
            ("vram_gb", 0.0001, 1),
            ("vram_gb", "12GiB", 12 * 1024),
            ("vram_gb", "12GB", 11445),
            ("vram_gb", "512MiB", 512),
            ("vram_gb", "512 MB", 489),
            ("vram_gb", "1.5gib", 1536),
            ("vram_gb", "0.5TiB", 512 * 1024),
            ("vram_mb", 300, 300),
            ("vram_mb", 300.2, 301),
            ("vram_mb", "2GiB", 2048),
        ],
    )
    def test_vram_is_rounded_up_to_mib(self, key: str, value: Any, mib: int) -> None:
        assert of({key: value}).memory_mib == mib

    def test_every_other_key(self) -> None:
        request = of(
            {
                "gpu": 2,
                "vram_gb": 10,
                "vram_gb_max": "20GiB",
                "gpu_type": ["H100", "A100", "H100"],
                "cpus": 1.5,
                "memory_gb": "1000MB",
                "labels": {"zone": "b", "disk": "ssd"},
                "executor": "diffusion",
                "isolation": "fresh",
                "on_oom": "fail",
            }
        )
        assert request == ResourceRequest(
            gpus=2,
            memory_mib=10 * 1024,
            memory_mib_max=20 * 1024,
            gpu_types=("H100", "A100"),
            cpus_milli=1500,
            host_memory_mib=954,
            labels=(("disk", "ssd"), ("zone", "b")),
            executor="diffusion",
            isolation=Isolation.FRESH,
            on_oom=OnOom.FAIL,
        )

    def test_no_cpu_and_no_memory_may_be_asked(self) -> None:
        assert of({"cpus": 0, "memory_gb": 0}) == ResourceRequest()


class TestLayers:
    def test_header_over_attribute_over_default(self) -> None:
        request = effective_request({"vram_gb": 20}, {"vram_gb": 12, "cpus": 2}, {"gpu": True, "cpus": 1})
        assert request == ResourceRequest(gpus=1, memory_mib=20 * 1024, cpus_milli=2000)

    def test_one_spelling_replaces_another(self) -> None:
        assert effective_request({"vram_mb": 300}, {"vram_gb": 12}, None).memory_mib == 300

    def test_the_queue_default_gives_a_whole_device_only_where_nothing_else_is_said(self) -> None:
        assert effective_request(None, None, GPU_DEFAULT) == ResourceRequest(gpus=1, exclusive=True)
        assert effective_request(None, {"vram_gb": 1}, GPU_DEFAULT) == ResourceRequest(
            gpus=1, memory_mib=1024
        )
        assert effective_request(None, {"gpu": False}, GPU_DEFAULT) == ResourceRequest(cpus_milli=1000)

    def test_the_number_of_devices_below_stays_when_vram_changes(self) -> None:
        assert effective_request({"vram_gb": 8}, {"gpu": 2}, None) == ResourceRequest(gpus=2, memory_mib=8192)

    def test_vram_above_wins_over_gpu_false_below(self) -> None:
        assert effective_request({"vram_gb": 8}, {"gpu": False}, None) == ResourceRequest(
            gpus=1, memory_mib=8192
        )

    def test_gpu_false_above_drops_vram_below(self) -> None:
        assert effective_request({"gpu": False}, {"vram_gb": 8}, None) == ResourceRequest(cpus_milli=1000)

    def test_a_request_of_what_was_learned_needs_its_first_guess_from_any_layer(self) -> None:
        learned = ResourceRequest(gpus=1, memory_mib=8192, basis=Basis.LEARNED)
        assert effective_request({"request": "learned"}, {"vram_gb": 8}, GPU_DEFAULT) == learned
        assert effective_request({"vram_gb": 8}, {"gpu": True, "request": "learned"}, None) == learned
        assert effective_request({"request": "declared"}, {"vram_gb": 8, "request": "learned"}, None) == (
            ResourceRequest(gpus=1, memory_mib=8192)
        )
        assert effective_request({"gpu": False}, {"vram_gb": 8, "request": "learned"}, None).gpus == 0
        assert merge_raw({"request": "learned"}, {"vram_gb": 8}) == {"vram_gb": 8, "request": "learned"}

    def test_raw_merging_keeps_what_users_wrote(self) -> None:
        assert merge_raw({"vram_mb": 300}, {"vram_gb": 12, "cpus": 2}) == {"vram_mb": 300, "cpus": 2}


BAD: list[tuple[Any, str]] = [
    ({"vram_gb": "12 elephants"}, "vram_gb"),
    ({"vram_gb": "12"}, "vram_gb"),
    ({"vram_gb": ""}, "vram_gb"),
    ({"vram_gb": -1}, "vram_gb"),
    ({"vram_gb": "-1GiB"}, "vram_gb"),
    ({"vram_gb": 0}, "vram_gb"),
    ({"vram_gb": "0GiB"}, "vram_gb"),
    ({"vram_gb": float("nan")}, "vram_gb"),
    ({"vram_gb": float("inf")}, "vram_gb"),
    ({"vram_gb": True}, "vram_gb"),
    ({"vram_gb": None}, "vram_gb"),
    ({"vram_gb": [12]}, "vram_gb"),
    ({"vram_gb": 10**9}, "vram_gb"),
    ({"vram_gb": 10**400}, "vram_gb"),
    ({"vram_gb": "999999999999TiB"}, "vram_gb"),
    ({"vram_mb": -5}, "vram_mb"),
    ({"gpu": -1}, "gpu"),
    ({"gpu": 1.0}, "gpu"),
    ({"gpu": "yes"}, "gpu"),
    ({"gpu": None}, "gpu"),
    ({"gpu": 5000}, "gpu"),
    ({"cpus": -1}, "cpus"),
    ({"cpus": True}, "cpus"),
    ({"cpus": "4"}, "cpus"),
    ({"cpus": float("nan")}, "cpus"),
    ({"cpus": 1e9}, "cpus"),
    ({"memory_gb": -1}, "memory_gb"),
    ({"memory_gb": 1e12}, "memory_gb"),
    ({"exclusive": 1}, "exclusive"),
    ({"gpu": True, "exclusive": False}, "exclusive"),
    ({"gpu_type": []}, "gpu_type"),
    ({"gpu_type": [""]}, "gpu_type"),
    ({"gpu_type": 7}, "gpu_type"),
    ({"labels": ["a"]}, "labels"),
    ({"labels": {"a": 1}}, "labels"),
    ({"labels": {str(n): "x" for n in range(65)}}, "labels"),
    ({"executor": ""}, "executor"),
    ({"executor": "x" * 300}, "executor"),
    ({"isolation": "cold"}, "isolation"),
    ({"isolation": 3}, "isolation"),
    ({"on_oom": "explode"}, "on_oom"),
    ({"vram_gb": 8, "request": "guessed"}, "request"),
    ({"vram_gb": 8, "request": True}, "request"),
    ({"gpu": True, "request": "learned"}, "request"),
    ({"gpu": True, "vram_gb_max": 20}, "vram_gb_max"),
    ({"vram_gb": 20, "vram_gb_max": 10}, "vram_gb_max"),
    ({"vram_gb": 1, "vram_mb": 1024}, "vram_mb"),
    ({"gpus": 1}, "gpus"),
    ({7: 1}, "7"),
    ("gpu", "resource_requirements"),
    ([("gpu", 1)], "resource_requirements"),
    (True, "resource_requirements"),
]


@pytest.mark.parametrize(("layer", "key"), BAD)
@pytest.mark.parametrize("position", [0, 1])
def test_what_is_wrong_is_named(layer: Any, key: str, position: int) -> None:
    layers: list[Any] = [None, None]
    layers[position] = layer
    with pytest.raises(RequirementError) as caught:
        effective_request(*layers, None)
    error = caught.value
    assert error.key == key
    assert error.bound
    assert key in str(error)
    assert error.bound in str(error)


def test_an_unknown_key_is_answered_with_the_known_ones() -> None:
    with pytest.raises(RequirementError, match=r"vram='12': unknown key; known are cpus, .*vram_gb"):
        of({"vram": "12"})


def test_an_int_of_thousands_of_digits_is_no_crash() -> None:
    with pytest.raises(RequirementError, match="an integer of 16610 bits"):
        of({"cpus": 10**5000})
