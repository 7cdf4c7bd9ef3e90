"""The commands and environments that `celeray up` makes of the settings."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from celeray.cli.stack import Plan, address, commands, environment
from celeray.cli.up import as_arguments, chosen_port, stages
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.settings import Settings, WorkerSettings

URL = "redis://127.0.0.1:7000/0"


def plan(settings: Settings | None = None, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "app": "film.app",
        "settings": settings or Settings(),
        "broker_url": URL,
        "result_backend": URL,
        "key_prefix": "",
        "api_port": 8001,
        "flower_port": 5556,
        "config_file": None,
        "loglevel": "INFO",
    }
    return Plan(**values | changes)


def argv(made: Plan, name: str) -> str:
    return " ".join(commands(made, {})[name].argv)


def test_a_worker_an_entry() -> None:
    workers = {
        "cpu": WorkerSettings(queues=("cpu.analysis", "priority"), concurrency=3, max_tasks_per_child=50),
        "io": WorkerSettings(queues=("io.storage",), pool="threads", concurrency=8),
    }
    made = plan(Settings(workers=workers))
    assert list(commands(made, {})) == ["bridge", "cpu", "io", "keeper", "api", "flower"]
    cpu = argv(made, "cpu")
    assert "-m celery -A film.app worker -l INFO" in cpu
    assert "-n cpu@%h -Q cpu.analysis,priority -P prefork -c 3 --max-tasks-per-child 50" in cpu
    assert argv(made, "io").endswith("-n io@%h -Q io.storage -P threads -c 8")
    assert commands(made, {})["cpu"].cold_signal == signal.SIGQUIT


def test_the_bridge_gets_what_up_was_given() -> None:
    made = plan(Settings(simulate_gpus="2x24GiB", ray_address="h:6380", window=9))
    assert "bridge -A film.app -l INFO -c 9" in argv(made, "bridge")
    assert argv(made, "bridge").endswith("--ray-address h:6380 --simulate-gpus 2x24GiB")
    assert "--ray-address" not in argv(plan(), "bridge")


def test_the_keeper_has_the_app_whose_broker_options_count() -> None:
    assert argv(plan(), "keeper").endswith("keeper -A film.app -l INFO")


def test_the_api_imports_no_user_code_and_has_the_settings_all_the_same() -> None:
    made = plan(Settings(window=9, queues=(*Settings().queues, "own")), key_prefix="film:")
    command = commands(made, {"A": "b"})["api"]
    assert "-A" not in command.argv
    assert " ".join(command.argv).endswith("api --key-prefix film: --port 8001")
    assert command.env["A"] == "b"
    assert command.env["CELERAY_WINDOW"] == "9"
    assert '"own"' in command.env["CELERAY_QUEUES"]
    assert "CELERAY_API_PORT" not in command.env


def test_the_exported_settings_are_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(
        window=9,
        state_dir=Path("/tmp/x"),
        app="film.app",
        workers={"own": WorkerSettings(queues=("io.storage",))},
        api_allowed_hosts=("h",),
    )
    for key, value in commands(plan(settings), {})["api"].env.items():
        monkeypatch.setenv(key, value)
    assert Settings() == settings


def test_flower_listens_on_loopback_and_can_be_left_out() -> None:
    assert argv(plan(), "flower").endswith("flower --address=127.0.0.1 --port=5556")
    assert "flower" not in commands(plan(flower_port=0), {})


def test_the_environment_of_the_parts() -> None:
    base = {"PATH": "/bin", "OMP_NUM_THREADS": "1", "FLOWER_UNAUTHENTICATED_API": "1"}
    made = environment(plan(config_file="film.toml"), base, of_ray_up=False)
    assert (made["CELERY_BROKER_URL"], made["CELERY_RESULT_BACKEND"], made["PATH"]) == (URL, URL, "/bin")
    assert made["CELERAY_CONFIG"] == os.path.abspath("film.toml")
    assert made["OMP_NUM_THREADS"] == "1"
    assert "FLOWER_UNAUTHENTICATED_API" not in made
    assert "OMP_NUM_THREADS" not in environment(plan(), base, of_ray_up=True)


def test_redis_stops_last_and_who_runs_tasks_first() -> None:
    parts: dict[str, Any] = dict.fromkeys(("bridge", "cpu", "api", "flower"))
    redis: Any = object()
    assert stages(dict(parts), redis) == [[None, None], [None], [None], [redis]]
    assert len(stages(parts, None)) == 3


def test_a_taken_port_is_named_with_its_option() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"--api-port={port}"):
            chosen_port("127.0.0.1", port, "--api-port")
    assert chosen_port("127.0.0.1", 0, "--api-port") > 0


def test_addresses_as_they_are_reached_from_here() -> None:
    assert address("127.0.0.1", 1) == address("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert address("::1", 1) == address("::", 1) == "http://[::1]:1"


def test_no_url_is_on_a_command_line() -> None:
    """Every user of the machine can read those."""
    secret = "redis://:secret@127.0.0.1:7000/0"
    made = plan(broker_url=secret, result_backend=secret)
    assert "secret" not in str([command.argv for command in commands(made, {}).values()])


def test_options_once_more_for_the_background() -> None:
    given = {"app": "film.app", "redis_url": None, "api_port": 0, "stop_timeout": 5.0}
    assert as_arguments(given) == ["--app", "film.app", "--api-port", "0", "--stop-timeout", "5.0"]
