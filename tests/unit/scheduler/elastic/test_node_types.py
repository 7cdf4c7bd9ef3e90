"""What a user may write in the setting `elastic`, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from celeray.scheduler.elastic.node_types import GROUP_LABEL, empty_nodes
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.settings import Settings

A100 = {
    "gpus": 8,
    "gpu_type": "NVIDIA A100-SXM4-40GB",
    "vram": "40GiB",
    "cpus": 64,
    "memory": "400GiB",
    "max": 4,
    "start_s": 180,
    "labels": {"zone": "b"},
    "resources": {"a100_node": 1},
}


def test_a_type_is_an_empty_node_for_placement() -> None:
    settings = Settings.load(elastic={"a100": A100})

    [node] = empty_nodes(settings.elastic, headroom_mib=1024)

    assert (node.cpus_milli, node.memory_free_mib) == (64_000, 400 * 1024)
    assert node.labels == {"zone": "b", GROUP_LABEL: "a100"}
    assert len({device.uuid for device in node.devices}) == 8
    first = node.devices[0]
    assert (first.gpu_type, first.total_mib, first.schedulable_mib) == (
        "NVIDIA A100-SXM4-40GB",
        40 * 1024,
        39 * 1024,
    )


def test_a_number_is_gib_as_in_a_request() -> None:
    kind = Settings.load(elastic={"a": A100 | {"vram": 39.5, "memory": 100}}).elastic["a"]

    assert (kind.vram_mib, kind.memory_mib) == (39 * 1024 + 512, 100 * 1024)


def test_of_a_type_without_any_node_nothing_may_come() -> None:
    assert empty_nodes(Settings.load(elastic={"a": A100 | {"max": 0}}).elastic) == ()


def test_the_settings_survive_their_way_to_an_executor() -> None:
    settings = Settings.load(elastic={"a100": A100})

    assert Settings.model_validate_json(settings.model_dump_json()).elastic == settings.elastic


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vram": "40 foos"}, "elastic.a.vram='40 foos': Value error, expected a number of GiB above 0"),
        ({"vram": True}, "elastic.a.vram=True"),
        ({"memory": -1}, "elastic.a.memory=-1"),
        ({"gpus": 0}, "elastic.a.gpus=0: Input should be greater than or equal to 1"),
        ({"gpus": "8"}, "elastic.a.gpus='8'"),
        ({"max": -1}, "elastic.a.max=-1"),
        ({"min": 5}, "min=5: at most max=4"),
        ({"start_s": 0}, "elastic.a.start_s=0: Input should be greater than 0"),
        ({"resources": {"GPU": 8}}, "resources.GPU: said by gpus, cpus and memory, and not here"),
        ({"resources": {"x": 0}}, "elastic.a.resources.x=0"),
        ({"gpu": 1}, "elastic.a.gpu=1: Extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(elastic={"a": A100 | change})

    assert says in str(raised.value)
