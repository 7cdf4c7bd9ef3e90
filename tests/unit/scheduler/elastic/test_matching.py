"""Of which type a node is, by Ray's label or by what it is like."""

from __future__ import annotations

from dataclasses import replace

from celeray.scheduler.elastic.matching import type_of
from celeray.scheduler.elastic.node_types import GROUP_LABEL
from celeray.scheduler.model import DeviceReading, NodeReading

from .samples import kind

A10 = DeviceReading("GPU-a", 0, "NVIDIA A10", 24_564, 0, ())
NODE = NodeReading("n1", "n1", "10.0.0.1", 16_000, 65_536, {}, (A10, replace(A10, uuid="GPU-b")), 0.0)
TYPES = {"big": kind(gpus=8, gpu_type="A100"), "small": kind()}


def test_rays_label_decides() -> None:
    assert type_of(replace(NODE, labels={GROUP_LABEL: "big"}), TYPES) == "big"
    assert type_of(replace(NODE, labels={GROUP_LABEL: "ray.head.default"}), TYPES) is None


def test_without_it_a_node_is_of_the_type_that_it_is_like() -> None:
    assert type_of(NODE, TYPES) == "small"
    assert type_of(replace(NODE, devices=(), unleased=2), TYPES) == "small"
    assert type_of(replace(NODE, devices=NODE.devices[:1]), TYPES) is None
    assert type_of(replace(NODE, devices=tuple(replace(d, name="T4") for d in NODE.devices)), TYPES) is None


def test_labels_of_the_type_have_to_be_there() -> None:
    types = {"zone": kind(labels={"zone": "b"})}

    assert type_of(NODE, types) is None
    assert type_of(replace(NODE, labels={"zone": "b", "other": "x"}), types) == "zone"
