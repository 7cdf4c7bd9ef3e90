"""cluster.yaml is what Ray accepts, and says what the documentation promises of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER_YAML = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CLUSTER_YAML.read_text(encoding="utf-8"))
    return loaded


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)

    workers = len(config["provider"]["worker_ips"])
    assert prepared["available_node_types"]["local.cluster.node"]["min_workers"] == workers
    assert prepared["available_node_types"]["local.cluster.node"]["max_workers"] == workers


def test_ray_leaves_redis_its_port(config: dict[str, Any]) -> None:
    start = " ".join(config["head_start_ray_commands"])

    assert f"--port={config['metadata']['celeray']['ray_port']}" in start
    assert config["metadata"]["celeray"]["ray_port"] != 6379


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_start_commands_authenticate_and_stop_nothing(config: dict[str, Any], key: str) -> None:
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    for command in config[key]:
        assert command.startswith(". ~/.celeray/env;")
        assert "ray stop" not in command


def test_secrets_are_copied_and_kept_from_others(config: dict[str, Any]) -> None:
    for secret in ("~/.ray/auth_token", "~/.celeray/redis_password"):
        assert secret in config["file_mounts"]
        assert secret in config["setup_commands"][0]
    assert config["setup_commands"][0].startswith("chmod 600 ")


def test_the_head_s_address_is_the_provider_s(config: dict[str, Any]) -> None:
    commands = config["setup_commands"] + config["head_start_ray_commands"]
    addresses = {address for command in commands for address in re.findall(r"\d+\.\d+\.\d+\.\d+", command)}

    assert addresses == {config["provider"]["head_ip"], "127.0.0.1"}
