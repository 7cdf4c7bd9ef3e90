"""Connecting the driver process to Ray: to a cluster by address, or to a local one that lives and dies with it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

from celeray.actors.channel import DriverConfig
from celeray.actors.simulated import parse_spec
from celeray.scheduler.errors import ConfigurationError

NAMESPACE = "celeray"
OBJECT_STORE_BYTES = 200 * 1024 * 1024
"""Of a local Ray: payloads and outcomes are small, and large data belongs in the user's own store."""
CONNECT_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


def connect(config: DriverConfig) -> str:
    """Connect this process to Ray and return the cluster's address.

    Raises:
        Exception: whatever Ray raises when it can't be reached or does not start.
        ConfigurationError: `simulate_gpus` can't be read, or the address is one of Ray's client.
        OSError: nothing listens at the address.
    """
    if config.ray_address is not None:
        check_address(config.ray_address)
    prepare_environment(local=config.ray_address is None)
    import ray  # after the environment: Ray reads it when it is imported

    options: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": True,
        "logging_level": logging.WARNING,
        "configure_logging": True,
    }
    if config.ray_address is None:
        options |= _local_options(config)
        # "local" starts a new one even where RAY_ADDRESS or an earlier session's file names another.
        context = ray.init(address="local", **options)
    else:
        context = ray.init(address=config.ray_address, **options)
    return str(context.address_info["gcs_address"])


def check_address(address: str) -> None:
    """Find out within seconds that nobody is there: Ray itself tries for more than a minute.

    Raises:
        ConfigurationError: a `ray://` address, whose proxy has no placement groups pinned to nodes.
        OSError: nothing listens at HOST:PORT. Other forms, such as `auto`, are left to Ray.
    """
    if "://" in address:
        raise ConfigurationError(
            f"ray_address={address!r}: expected HOST:PORT of the cluster's GCS, or auto; "
            "the bridge runs on a node of the cluster"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S):
            pass


def prepare_environment(*, local: bool) -> None:
    """Set what Ray reads from the environment. What the user set stays."""
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        # An address never turns token authentication on by itself.
        "RAY_AUTH_MODE": "token",
        # Ray's future default, and silent about it: without devices it leaves the variable to us.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if not sys.stdout.isatty():
        environment["RAY_COLOR_PREFIX"] = "0"
    if local:
        # A local Ray would start one idle worker a CPU before anyone asked for one.
        environment |= {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
    for key, value in environment.items():
        os.environ.setdefault(key, value)
    if local and os.environ["RAY_AUTH_MODE"].lower() == "token":
        ensure_token()


def ensure_token() -> None:
    """Make sure that Ray finds a token which only this user can read.

    Ray would write it with the process's umask.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
            logger.warning("Ray's token file %s was readable by others: now only by its owner", path)
            path.chmod(0o600)
        return
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))


def _local_options(config: DriverConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        # Nobody else has business with it; Ray would listen on the address that leads out.
        "_node_ip_address": "127.0.0.1",
    }
    if config.simulate_gpus:
        options["num_gpus"] = len(parse_spec(config.simulate_gpus))
    return options
