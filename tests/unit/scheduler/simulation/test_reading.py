"""Traces, histories and node lists: what they become, and what is said of one that can't be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from celeray.scheduler.model import Isolation, ResourceRequest
from celeray.scheduler.simulation.nodes import DeviceSpec, read_nodes
from celeray.scheduler.simulation.reading import TraceError
from celeray.scheduler.simulation.trace import read_trace, with_service_priorities, without_cpus

HEADER = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,"
    "scheduled_time\n"
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file"
    path.write_text(text)
    return path


def test_a_public_task_has_a_share_of_a_device(tmp_path: Path) -> None:
    lines = "a,4000,8192,1,460,V100M16|T4,LS,Running,10,170,20\nb,2000,0,0,0,,BE,Failed,11,12,\n"
    shared, plain = read_trace(written(tmp_path, HEADER + lines))
    assert shared.request == ResourceRequest(
        gpus=1,
        memory_mib=460 * 16,
        gpu_types=("V100M16", "T4"),
        cpus_milli=4000,
        host_memory_mib=8192,
        isolation=Isolation.FRESH,
    )
    assert (shared.arrived_s, shared.run_s, shared.service) == (10.0, 150.0, "LS")
    assert (plain.request.gpus, plain.request.memory_mib, plain.run_s) == (0, None, None)


def test_shares_that_fill_a_device_fit_on_it_however_large_it_is(tmp_path: Path) -> None:
    lines = "".join(f"t{milli},0,0,1,{milli},,LS,Running,0,1,0\n" for milli in (470, 530))
    parts = read_trace(written(tmp_path, HEADER + lines), device_mib=16_383)
    assert sum(part.request.memory_mib or 0 for part in parts) <= 16_383


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,x,0,1,500,,LS,R,0,1,0", ":3: cpu_milli='x': expected a whole number, at least 0"),
        ("a,0,-1,1,500,,LS,R,0,1,0", ":3: memory_mib='-1': expected a whole number, at least 0"),
        ("a,0,0,1,1001,,LS,R,0,1,0", ":3: gpu_milli='1001': expected 1 to 1000, since num_gpu is 1"),
        ("a,0,0,1,0,,LS,R,0,1,0", ":3: gpu_milli='0': expected 1 to 1000, since num_gpu is 1"),
        (",0,0,1,500,,LS,R,0,1,0", ":3: name='': expected a text"),
        ("a,0,0,1,500,,LS,R,soon,1,0", ":3: creation_time='soon': expected seconds"),
        ("a,0,0,1,500,,LS,R,0,5,9", ":3: deletion_time='5': before scheduled_time=9"),
        ("a,0,0,1,500,,LS,R,0,nan,0", ":3: deletion_time='nan': expected seconds"),
        ("a,0,0,1", ":3: 4 fields, and the header has 11"),
    ],
)
def test_a_bad_line_is_named_with_its_column_and_value(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path, HEADER + "ok,0,0,1,500,,LS,R,0,1,0\n" + line + "\n")
    with pytest.raises(TraceError) as raised:
        read_trace(path)
    assert str(raised.value) == f"{path}{message}"


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no column 'num_gpu'"):
        read_trace(written(tmp_path, HEADER.replace("num_gpu", "gpus")))


def test_an_empty_trace_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no tasks"):
        read_trace(written(tmp_path, HEADER))
    with pytest.raises(TraceError, match="can't be read"):
        read_trace(tmp_path / "nowhere")


def test_a_history_is_told_from_a_public_trace(tmp_path: Path) -> None:
    lines = [
        {"task_id": "a", "gpus": 1, "vram_mib": 4096, "arrived_at": 5.5, "run_s": 2, "priority": 7},
        {"gpus": 2, "vram_mib": None, "gpu_types": ["A100"], "cpus_milli": 500, "queue": "gpu.x"},
        {"gpus": 0},
    ]
    text = "\n\n".join(map(json.dumps, lines))
    first, second, third = read_trace(written(tmp_path, text))
    assert (first.name, first.request.memory_mib, first.arrived_s, first.run_s, first.priority) == (
        *("a", 4096, 5.5, 2.0, 7),
    )
    assert second.request == ResourceRequest(
        gpus=2, exclusive=True, gpu_types=("A100",), cpus_milli=500, isolation=Isolation.FRESH
    )
    assert (second.name, second.service, second.priority) == ("line-3", "gpu.x", 5)
    assert third.request == ResourceRequest(isolation=Isolation.FRESH)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"gpus": true}', ":2: gpus=True: expected a whole number, at least 0"),
        ('{"gpus": 1, "vram_mib": 0}', ":2: vram_mib=0: expected a whole number, at least 1"),
        ('{"gpus": 1, "priority": 11}', ":2: priority=11: expected 1 to 10"),
        ('{"gpus": 1, "run_s": -1}', ":2: run_s=-1: expected seconds, at least 0"),
        ('{"gpus": 1, "gpu_types": "A100"}', ":2: gpu_types='A100': expected a list of texts"),
        ("[1]", ":2: expected a JSON object"),
        ('{"gpus": ', ":2: no JSON: Expecting value: line 1 column 10 (char 9)"),
    ],
)
def test_a_bad_line_of_a_history_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path, '{"gpus": 0}\n' + line)
    with pytest.raises(TraceError) as raised:
        read_trace(path)
    assert str(raised.value) == f"{path}{message}"


def test_cpus_can_be_left_out_and_priorities_set_by_service(tmp_path: Path) -> None:
    lines = "a,4000,8192,1,460,,LS,R,0,1,0\nb,1000,0,1,460,,BE,R,0,1,0\nc,0,0,1,460,,Burstable,R,0,1,0\n"
    tasks = read_trace(written(tmp_path, HEADER + lines))
    bare = without_cpus(tasks)
    assert {task.request for task in bare} == {bare[0].request}
    assert (bare[0].request.cpus_milli, bare[0].request.host_memory_mib) == (0, 0)
    assert [task.priority for task in with_service_priorities(tasks)] == [7, 3, 5]


def test_public_nodes_have_devices_of_one_size(tmp_path: Path) -> None:
    path = written(tmp_path, "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\nn1,1000,0,0,\n")
    first, second = read_nodes(path)
    assert first.devices == (DeviceSpec(16_000, "P100"),) * 2
    assert (first.name, first.cpus_milli, first.memory_mib, second.devices) == ("n0", 64_000, 262_144, ())


def test_nodes_of_ones_own_are_counted_out(tmp_path: Path) -> None:
    entry = {
        "name": "big",
        "count": 2,
        "cpus_milli": 8000,
        "memory_mib": 1000,
        "labels": {"zone": "a"},
        "devices": [{"total_mib": 24_576, "gpu_type": "A10", "count": 2}, {"total_mib": 8192}],
    }
    nodes = read_nodes(written(tmp_path, json.dumps([entry])))
    assert [node.name for node in nodes] == ["big-0", "big-1"]
    assert nodes[0].devices == (DeviceSpec(24_576, "A10"),) * 2 + (DeviceSpec(8192),)
    assert nodes[0].idle().labels == {"zone": "a"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "expected a JSON list of nodes"),
        ([3], ": node 1: expected a JSON object, not 3"),
        ([{"name": "a", "memory_mib": 1}], ": node 1: cpus_milli=None: expected a whole number, at least 0"),
        (
            [{"name": "a", "cpus_milli": 1, "memory_mib": 1, "devices": [{"total_mib": 0}]}],
            ": node 1: devices: total_mib=0: expected a whole number, at least 1",
        ),
        ([{"name": "a", "cpus_milli": 1, "memory_mib": 1, "labels": {"a": 1}}], "labels={'a': 1}: expected"),
        ([{"name": "a", "cpus_milli": 1, "memory_mib": 1}] * 2, "name='a': two nodes of one name"),
        ([{"name": "a", "cpus_milli": 1, "memory_mib": 1}], "no devices"),
    ],
)
def test_a_bad_node_is_named(tmp_path: Path, document: object, message: str) -> None:
    with pytest.raises(TraceError) as raised:
        read_nodes(written(tmp_path, json.dumps(document)))
    assert message in str(raised.value)
