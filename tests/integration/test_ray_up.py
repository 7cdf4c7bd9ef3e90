"""`ray up` of cluster.yaml on this machine: a head and a GPU node, over stand-ins for ssh and rsync.

Adapted are addresses, ports, the user and what is copied; and each Ray node gets ports of its own choice, since
another cluster may be on this host. The commands are those of cluster.yaml.
"""

from __future__ import annotations

import getpass
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from celery import Celery

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
SHIMS = Path(__file__).parent / "shims"
DEADLINE_S = 120.0
HEAD, GPU_NODE = "127.0.0.1", "127.0.0.2"
OWN_PORTS = "--dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0 --metrics-export-port=0"
APP = """
import celeray
from celery import Celery

app = Celery("proj")
celeray.install(app)


@app.task(name="proj.double", resource_requirements={"gpu": True, "vram_gb": 2})
def double(number):
    return 2 * number


@app.task(name="proj.add_one")
def add_one(number):
    return number + 1
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Two machines: a home a host below `root`, and ports. Every process of theirs has SHIM_ROOT."""

    root: Path
    redis_port: int
    ray_port: int
    api_port: int
    password: str

    @property
    def redis_url(self) -> str:
        return f"redis://:{self.password}@{HEAD}:{self.redis_port}/0"

    def processes(self) -> dict[int, psutil.Process]:
        """By pid. A Redis server writes its title over its environment, but is started by its path."""
        found = {}
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("SHIM_ROOT") == str(self.root)
                if ours or str(self.root) in process.cmdline()[0]:
                    found[process.pid] = process
            except (psutil.Error, IndexError):
                continue
        return found

    def daemons(self) -> set[int]:
        """Pids of what must not be started twice: Redis, GCS, raylets, `celeray up`."""
        marks = ("redis-server", "gcs_server", "raylet/raylet", "celeray.cli up")
        running = self.processes().items()
        return {pid for pid, process in running if any(m in " ".join(process.cmdline()) for m in marks)}

    def get(self, path: str) -> Any:
        """JSON of the head's REST; None while there is none."""
        with closing(http.client.HTTPConnection(HEAD, self.api_port, timeout=5)) as connection:
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return json.loads(answer.read()) if answer.status == 200 else None
            except OSError:
                return None

    def end(self) -> None:
        """End every process, `celeray up` first and in order."""
        running = self.processes()
        for pid in {pid for pid in self.daemons() if "celeray.cli up" in " ".join(running[pid].cmdline())}:
            running[pid].terminate()
        psutil.wait_procs([p for p in running.values() if "celeray.cli" in " ".join(p.cmdline())], timeout=60)
        while left := self.processes():
            for process in left.values():
                process.kill()
            psutil.wait_procs(left.values(), timeout=10)


@pytest.fixture
def site() -> Iterator[Site]:
    # Directly below /tmp: the paths of Ray's sockets lie in there and may have 107 bytes.
    site = Site(
        Path(tempfile.mkdtemp(prefix="ru", dir="/tmp")), *free_ports(3), password=secrets.token_hex(16)
    )
    for host in (HEAD, GPU_NODE):
        furnish(site, host)
    yield site
    site.end()
    shutil.rmtree(site.root)


def furnish(site: Site, host: str) -> None:
    """Make the host's home, with what setup_commands would make with pip."""
    home = site.root / host
    environment = {
        "SHIM_ROOT": site.root,
        "PATH": f"{SHIMS}:$PATH",
        "RAY_TMPDIR": home / "t",
        "CELERAY_SIMULATE_GPUS": "1x24GiB",
        "CELERAY_API_PORT": site.api_port,
        "CELERAY_FLOWER_PORT": 0,
    }
    (home / "celeray").mkdir(parents=True)
    (home / "celeray" / ".venv").symlink_to(sys.prefix)
    (home / ".bashrc").write_text("".join(f'export {key}="{value}"\n' for key, value in environment.items()))


def free_ports(count: int) -> list[int]:
    """Free ports outside of 10002 to 19999, which Ray keeps for its workers."""
    found: set[int] = set()
    while len(found) < count:
        with socket.socket() as probe:
            probe.bind((HEAD, 0))
            port = probe.getsockname()[1]
        if port > 20_000:
            found.add(port)
    return list(found)


def adapted(site: Site) -> dict[str, Any]:
    """cluster.yaml for this site; writes the files that it copies."""
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    for theirs, ours in {
        # Both nodes' raylets are seen from here.
        '"[-]-gcs-address=$RAY_HEAD_IP:6380"': f'"[-]-node_ip_address={GPU_NODE}"',
        "10.0.0.10": HEAD,
        "6380": str(site.ray_port),
        "6379": str(site.redis_port),
        "--dashboard-host=127.0.0.1": "--include-dashboard=false",
        "--metrics-export-port=8080": OWN_PORTS,
        "examples.auteur.app": "proj",
        "node start --": f"node start -- --node-ip-address={GPU_NODE}",
    }.items():
        assert theirs in text, f"cluster.yaml has no {theirs!r} any more"
        text = text.replace(theirs, ours)
    files = {"app/proj.py": APP, "token": secrets.token_hex(32), "password": site.password}
    for name, content in files.items():
        path = site.root / "launcher" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    config: dict[str, Any] = yaml.safe_load(text)
    config["provider"]["worker_ips"] = [GPU_NODE]
    config["max_workers"] = 1
    config["auth"] = {"ssh_user": getpass.getuser()}
    sources = {"~/celeray": "app", "~/.ray/auth_token": "token", "~/.celeray/redis_password": "password"}
    assert set(sources) == set(config["file_mounts"])
    config["file_mounts"] = {target: str(site.root / "launcher" / name) for target, name in sources.items()}
    return config


def ray_up(site: Site) -> None:
    """Run it as an operator does, from a machine with ssh and rsync."""
    config = adapted(site)
    path = site.root / "launcher" / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    environment = os.environ | {
        "PATH": f"{SHIMS}:{os.environ['PATH']}",
        "SHIM_ROOT": str(site.root),
        "USER": getpass.getuser(),
        "RAY_TMPDIR": str(site.root / "launcher" / "t"),
        "RAY_UP_enable_autoscaler_v2": "0",
    }
    command = [str(Path(sys.executable).with_name("ray")), "up", "-y", "--disable-usage-stats", str(path)]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Poll until `condition` gives something true, and return that."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_a_head_and_a_gpu_node_come_up_and_serve_a_stock_producer(site: Site) -> None:
    ray_up(site)
    status = until("Ray and Redis up", lambda: (s := site.get("/v1/status")) and s["ray_connected"] and s)
    assert status["redis_ok"]
    until("the GPU node", lambda: site.get("/v1/status")["devices"] == 1)

    with Celery("stock", broker=site.redis_url, backend=site.redis_url, set_as_current=False) as producer:
        on_gpu = producer.send_task("proj.double", (21,), queue="gpu.processing")
        on_cpu = producer.send_task("proj.add_one", (41,), queue="cpu.analysis")
        assert (on_gpu.get(timeout=DEADLINE_S), on_cpu.get(timeout=DEADLINE_S)) == (42, 42)

    run = until(
        "the bridge's record",
        lambda: (r := site.get(f"/v1/tasks/{on_gpu.id}")["run"]) and r["state"] == "succeeded" and r,
    )
    devices = {node["address"]: node["devices"] for node in site.get("/v1/nodes")["nodes"]}
    assert len(devices) == 2
    assert (run["queue"], run["vram_mib"], run["device_uuids"]) == ("gpu.processing", 2048, devices[GPU_NODE])
    assert site.get(f"/v1/tasks/{on_cpu.id}")["state"] == "succeeded"

    before = site.daemons()
    assert len(before) == 5
    ray_up(site)
    assert site.daemons() == before
