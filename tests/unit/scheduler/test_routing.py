"""Where tasks go: all eleven routes, precedence, flags."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.scheduler.errors import FlagError, RequirementError
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.routing import CACHE_MAX, TaskRouter
from celeray.scheduler.settings import Settings

WHOLE = ResourceRequest(gpus=1, exclusive=True)
ELEVEN = {
    "generate_image": "gpu.generation",
    "generate_video": "gpu.generation",
    "apply_style_transfer": "gpu.processing",
    "run_upscaling": "gpu.processing",
    "analyze_scene": "cpu.analysis",
    "extract_metadata": "cpu.analysis",
    "generate_thumbnail": "cpu.thumbnail",
    "create_preview": "cpu.thumbnail",
    "save_to_storage": "io.storage",
    "upload_to_cloud": "io.storage",
    "cleanup_temp_files": "io.storage",
}


@pytest.fixture
def router() -> TaskRouter:
    return TaskRouter(Settings())


@pytest.mark.parametrize(("name", "queue"), ELEVEN.items())
@pytest.mark.parametrize("prefix", ["", "film.", "a.b.tasks."])
def test_the_route_map_goes_by_the_short_name(router: TaskRouter, name: str, queue: str, prefix: str) -> None:
    route = router.route(prefix + name)
    assert route.queue == queue
    assert route.priority == 5
    assert route.request == (WHOLE if queue.startswith("gpu.") else ResourceRequest(cpus_milli=1000))


@pytest.mark.parametrize("name", ["other", "generate_image.other", "my_generate_image", ""])
def test_any_other_name_goes_to_the_default(router: TaskRouter, name: str) -> None:
    assert router.route(name).queue == "cpu.analysis"


def test_the_apps_own_default_queue_counts() -> None:
    assert TaskRouter(Settings(), default_queue="mine").route("other").queue == "mine"


@pytest.mark.parametrize(
    ("vram", "queue"),
    [
        ({"vram_gb": 8}, "gpu.processing"),
        ({"vram_gb": 8.001}, "gpu.generation"),
        ({"vram_mb": 8193}, "gpu.generation"),
        ({"vram_gb": "8GB"}, "gpu.processing"),
        ({"gpu": True}, "gpu.processing"),
        ({"gpu": 4, "vram_gb": 40}, "gpu.generation"),
    ],
)
def test_what_it_asks_for_comes_before_its_name(router: TaskRouter, vram: dict[str, Any], queue: str) -> None:
    for name in ("save_to_storage", "generate_image", "other"):
        assert router.route(name, attribute=vram).queue == queue
        assert router.route(name, headers={"resource_requirements": vram}).queue == queue


def test_the_header_comes_before_the_attribute(router: TaskRouter) -> None:
    header = {"resource_requirements": {"vram_gb": 20}}
    route = router.route("other", headers=header, attribute={"gpu": True, "vram_gb": 2})
    assert route.queue == "gpu.generation"
    assert route.request == ResourceRequest(gpus=1, memory_mib=20 * 1024)


def test_without_a_device_the_name_decides_again(router: TaskRouter) -> None:
    route = router.route(
        "generate_thumbnail", headers={"resource_requirements": {"gpu": False}}, attribute={"gpu": 1}
    )
    assert route.queue == "cpu.thumbnail"
    assert route.request == ResourceRequest(cpus_milli=1000)


def test_gpu_false_on_a_gpu_queue_is_a_request_without_device(router: TaskRouter) -> None:
    route = router.route("generate_image", attribute={"gpu": False})
    assert route.queue == "gpu.generation"
    assert route.request.gpus == 0


@pytest.mark.parametrize("where", ["headers", "kwargs"])
@pytest.mark.parametrize("name", ["generate_image", "save_to_storage", "other"])
def test_the_priority_flag_comes_first_of_all(router: TaskRouter, name: str, where: Any) -> None:
    flagged: dict[str, Any] = {where: {"priority_task": True}}
    route = router.route(name, attribute={"vram_gb": 20}, **flagged)
    assert route.queue == "priority"
    assert route.request == ResourceRequest(gpus=1, memory_mib=20 * 1024)
    assert router.own_queue(name, attribute={"vram_gb": 20}) == "gpu.generation"


def test_the_flag_in_the_header_may_take_back_that_in_the_kwargs(router: TaskRouter) -> None:
    route = router.route("other", kwargs={"priority_task": True}, headers={"priority_task": False})
    assert route.queue == "cpu.analysis"


def test_on_the_priority_queue_the_default_of_the_own_queue_counts(router: TaskRouter) -> None:
    assert router.route("generate_image", headers={"priority_task": True}).request == WHOLE


@pytest.mark.parametrize(
    ("headers", "kwargs", "priority"),
    [
        (None, None, 5),
        ({"priority": 9}, None, 9),
        ({"user_initiated": True}, None, 7),
        (None, {"user_initiated": True, "batch_size": 50}, 6),
        ({"priority": 9, "user_initiated": True}, None, 10),
        (None, {"priority": 1, "batch_size": 50}, 1),
    ],
)
def test_flags_make_the_priority(router: TaskRouter, headers: Any, kwargs: Any, priority: int) -> None:
    assert router.route("other", kwargs=kwargs, headers=headers).priority == priority


def test_queues_and_limits_are_configurable() -> None:
    settings = Settings(
        queues=("gpu.big", "gpu.small", "main", "fast", "dead"),
        default_queue="main",
        priority_queue="fast",
        dead_letter_queue="dead",
        gpu_large_queue="gpu.big",
        gpu_small_queue="gpu.small",
        gpu_large_above_mib=1024,
        routes={"paint": "gpu.big"},
    )
    router = TaskRouter(settings)
    assert router.route("x.paint").queue == "gpu.big"
    assert router.route("x", attribute={"vram_gb": 2}).queue == "gpu.big"
    assert router.route("x", attribute={"vram_gb": 1}).queue == "gpu.small"
    assert router.route("x", headers={"priority_task": True}).queue == "fast"
    assert router.route("generate_image").queue == "main"


def test_errors_come_through(router: TaskRouter) -> None:
    for bad in ({"vram": 1}, {"vram_gb": {1: [2, {3}]}}, "gpu", 5, True):
        with pytest.raises(RequirementError):
            router.route("x", attribute=bad)  # type: ignore[arg-type]
    with pytest.raises(FlagError):
        router.route("x", headers={"priority": 99})


def test_equal_values_of_other_types_are_not_taken_for_each_other(router: TaskRouter) -> None:
    assert router.route("x", attribute={"vram_gb": 1}).request.memory_mib == 1024
    with pytest.raises(RequirementError):
        router.route("x", attribute={"vram_gb": True})


def test_a_changed_attribute_is_read_again(router: TaskRouter) -> None:
    attribute: dict[str, Any] = {"gpu_type": ["A100"], "labels": {"a": "b"}}
    assert router.route("x", attribute=attribute).request.gpu_types == ("A100",)
    attribute["gpu_type"].append("H100")
    assert router.route("x", attribute=attribute).request.gpu_types == ("A100", "H100")


def test_the_memory_of_requirements_is_bounded(router: TaskRouter) -> None:
    for number in range(CACHE_MAX + 10):
        router.request_for(None, {"vram_mb": number + 1}, "cpu.analysis")
    assert len(router._parsed) <= CACHE_MAX
