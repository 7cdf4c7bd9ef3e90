"""A Ray cluster whose autoscaler (v2) adds and removes real raylets on this machine, by Ray's fake provider.

`ray.cluster_utils.AutoscalingCluster` does the same, but reads an example file that Ray's wheel does not have, and ends
with `ray stop`, which ends every Ray of the machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

MIB = 1024 * 1024
HEAD_TYPE = "ray.head.default"
HEAD_ID = "f" * 51 + "00000"
END_S = 20.0


def config(gcs_address: str, idle_s: float, types: dict[str, Any]) -> dict[str, Any]:
    """The autoscaler's configuration; `types` as in `available_node_types`."""
    lists = (
        "cluster_synced_files",
        "head_setup_commands",
        "head_start_ray_commands",
        "initialization_commands",
        "rsync_exclude",
        "setup_commands",
        "worker_setup_commands",
        "worker_start_ray_commands",
    )
    return {
        "cluster_name": "celeray-test",
        "max_workers": 4,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            # Not `fake_multinode`: its defaults are in the example file that is missing.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs_address,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": HEAD_TYPE,
        "available_node_types": {
            HEAD_TYPE: {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
            **types,
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in lists},
    }


class AutoscalingRay:
    """`ray start --head`, which is told of the node types; ended by pid."""

    def __init__(self, folder: Path, types: dict[str, Any], *, idle_s: float) -> None:
        """
        Args:
            idle_s: so long a node may be idle before the autoscaler takes it away.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.log = folder / "head.log"
        file = folder / "autoscaling.yaml"
        file.write_text(yaml.safe_dump(config(self.address, idle_s, types)))
        self._command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--node-ip-address=127.0.0.1", f"--port={self.address.split(':')[1]}"),
            *("--num-cpus=1", "--num-gpus=0", f"--object-store-memory={100 * MIB}"),
            *("--include-dashboard=false", f"--autoscaling-config={file}"),
        ]
        self._env = os.environ | {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> AutoscalingRay:
        """Start the head; whoever connects waits until it is up."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, env=self._env, stdout=output, stderr=subprocess.STDOUT
            )
        return self

    def stop(self) -> None:
        """End the head, and what the autoscaler started and nobody ends with it."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in self._left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        deadline = time.monotonic() + END_S
        while self._left() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _left(self) -> list[psutil.Process]:
        """Processes of this cluster alone: they name the address of its GCS."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if any("gcs-address" in part and self.address in part for part in command):
                found.append(process)
        return found
