"""Every metric: named as documented, labelled as declared, and absent where the value is unknown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from celeray.scheduler.counters import Counters, TenantUse
from celeray.scheduler.elastic.overview import ElasticStatus
from celeray.scheduler.metrics import SPECS, HistogramSample, Picture, Sample, collect
from celeray.scheduler.model import Health, Reason
from celeray.scheduler.status import BridgeSummary, QueueStatus
from celeray.scheduler.suspensions import Pause
from tests.status_samples import bridge, counters, device, node

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"
GPU = ("node-1", "0", "GPU-a")


def picture(**changes: object) -> Picture:
    values: dict[str, object] = {
        "versions": ("0.1.0", "5.7.0", "2.60.0"),
        "bridges": [bridge()],
        "summaries": [
            BridgeSummary(bridge_id="b1", hostname="gpu-b1@host", up=True),
            BridgeSummary(bridge_id="b2", hostname="gpu-b2@host", up=False),
        ],
        "queues": [
            QueueStatus(
                name="gpu.generation", depth=5, reasons={Reason.VRAM: 2, Reason.CPUS: 1, Reason.NEVER_FITS: 1}
            )
        ],
        "devices": [device()],
        "nodes": [node()],
        "totals": counters(),
    }
    return Picture(**values | changes)  # type: ignore[arg-type]


def values(name: str, **changes: object) -> dict[tuple[str, ...], float]:
    found = collect(picture(**changes))[name]
    return {sample.labels: sample.value for sample in found if isinstance(sample, Sample)}


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| `(celer\w+)` \| (\w+)[^|]* \| ([^|]*) \|", DOCUMENT.read_text(), re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert documented == {spec.name: (spec.type, spec.labels) for spec in SPECS.values()}


def test_names_follow_prometheus() -> None:
    for spec in SPECS.values():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", spec.name)
        assert spec.name.endswith("_total") == (spec.type == "counter"), spec.name
        assert not {"task_id", "pid", "exception"} & set(spec.labels)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_samples_have_the_labels_of_their_metric(name: str) -> None:
    for sample in collect(picture())[name]:
        assert len(sample.labels) == len(SPECS[name].labels)


def test_base_units() -> None:
    gib = 1024**3
    assert values("celeray_gpu_memory_total_bytes") == {GPU: 80 * gib}
    assert values("celeray_gpu_memory_used_bytes") == {GPU: 2 * gib}
    assert values("celeray_gpu_memory_free_bytes") == {GPU: 78 * gib}
    assert values("celeray_gpu_memory_foreign_bytes") == {GPU: gib}
    assert values("celeray_gpu_utilization_ratio") == {GPU: pytest.approx(0.37)}
    assert values("celeray_gpu_power_watts") == {GPU: pytest.approx(250.5)}
    assert values("celeray_gpu_temperature_celsius") == {GPU: 61.0}
    assert values("celeray_gpu_report_age_seconds") == {("node-1",): 0.4}


def test_what_is_unknown_has_no_sample() -> None:
    unknown = device(
        total_mib=None,
        used_mib=None,
        foreign_mib=None,
        utilization_pct=None,
        temperature_c=None,
        power_mw=None,
    )
    found = collect(picture(devices=[unknown], nodes=[node(reading_age_s=None)]))
    for name in ("memory_total_bytes", "memory_free_bytes", "memory_foreign_bytes", "power_watts"):
        assert found[f"celeray_gpu_{name}"] == []
    assert len(found["celeray_gpu_schedulable_bytes"]) == 1
    assert found["celeray_gpu_report_age_seconds"] == []


def test_health_is_one_unless_nvml_calls_the_device_unhealthy() -> None:
    unhealthy = device("GPU-b", index=1, health=Health.UNHEALTHY, health_reason="xid 79")
    found = values("celeray_gpu_health", devices=[device(health=Health.UNKNOWN), unhealthy])
    assert found == {(*GPU, ""): 1.0, ("node-1", "1", "GPU-b", "xid 79"): 0.0}


def test_errors_that_the_driver_told_of_are_counted_by_xid() -> None:
    assert values("celeray_gpu_xid_errors_total") == {}
    found = values("celeray_gpu_xid_errors_total", devices=[device(xids={79: 1, 13: 4})])
    assert found == {(*GPU, "13"): 4.0, (*GPU, "79"): 1.0}


def test_nodes_of_elastic_types_are_counted_over_all_bridges() -> None:
    one = ElasticStatus(type="a100", min=0, max=4, there=2, asked=1, asked_since=5.0, released=1)
    other = ElasticStatus(type="a100", min=0, max=4, there=1, leaving=1, released=1)

    found = values(
        "celeray_elastic_nodes", bridges=[bridge("b1", elastic=(one,)), bridge("b2", elastic=(other,))]
    )

    assert found == {
        ("a100", "there"): 3.0,
        ("a100", "asked"): 1.0,
        ("a100", "leaving"): 1.0,
        ("a100", "released"): 1.0,
    }
    assert values("celeray_elastic_nodes") == {}


def test_identity_is_one_info_gauge() -> None:
    assert values("celeray_gpu_info") == {(*GPU, "NVIDIA A100-SXM4-80GB", "550.54.14", "", ""): 1.0}
    assert values("celeray_build_info") == {("0.1.0", "5.7.0", "2.60.0"): 1.0}


def test_pending_reasons_are_the_closed_list_of_the_alerts() -> None:
    assert values("celeray_task_pending") == {
        ("gpu.generation", "no_fit_now"): 3.0,
        ("gpu.generation", "no_fit_ever"): 1.0,
    }
    down = [QueueStatus(name="gpu.generation", reasons={Reason.CLUSTER_DOWN: 4})]
    assert values("celeray_task_pending", queues=down) == {("gpu.generation", "cluster_down"): 4.0}


def test_a_bridge_that_vanished_is_down_and_not_absent() -> None:
    assert values("celeray_bridge_up") == {("gpu-b1@host",): 1.0, ("gpu-b2@host",): 0.0}
    assert values("celeray_ray_connected") == {("gpu-b1@host",): 1.0}


def test_tasks() -> None:
    two = [bridge("b1"), bridge("b2")]
    assert values("celeray_task_running", bridges=two) == {("gpu.generation", "film.generate_image"): 2.0}
    finished = values("celeray_task_finished_total")
    assert finished == {("gpu.generation", "film.generate_image", "ray", "succeeded"): 2.0}
    assert values("celery_queue_length") == {("gpu.generation",): 5.0}


def test_paused_queues_are_one_and_the_others_zero() -> None:
    pause = Pause(by="a@h", at=1.0, why="x")
    queues = [QueueStatus(name="gpu.generation", paused=pause), QueueStatus(name="io.storage")]
    assert values("celeray_queue_paused", queues=queues) == {("gpu.generation",): 1.0, ("io.storage",): 0.0}


def test_histograms_are_cumulative() -> None:
    (sample,) = collect(picture())["celeray_task_placement_seconds"]
    assert isinstance(sample, HistogramSample)
    assert sample.buckets == (("0.5", 2.0), ("1.0", 2.0), ("+Inf", 3.0))
    assert sample.sum == 9.5


def test_with_nothing_there_is_only_the_build() -> None:
    empty = picture(bridges=[], summaries=[], queues=[], devices=[], nodes=[], totals=Counters())
    assert {name for name, samples in collect(empty).items() if samples} == {"celeray_build_info"}


def test_a_tenant_has_a_sample_of_what_it_used_in_all() -> None:
    totals = Counters(tenants=(TenantUse(tenant="a", mib_s=2.5),))
    assert values("celeray_tenant_vram_mib_seconds_total", totals=totals) == {("a",): 2.5}
    assert values("celeray_tenant_vram_mib_seconds_total") == {}
