"""`celeray up`: Redis, Ray, the bridge, the workers, the API and Flower, with one command."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from celeray.actors.simulated import parse_spec
from celeray.api.access import check_start
from celeray.cli.head import start_in_background
from celeray.cli.options import URL_VARIABLES, app_option, config_option, environment_url, load_app
from celeray.cli.processes import Output, Part, ProcessPart, Supervisor
from celeray.cli.stack import Plan, address, commands, environment
from celeray.scheduler.broker import broker_keys, masked
from celeray.scheduler.embedded_redis import EmbeddedRedis, free_port
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.settings import Settings

LOOPBACK = "127.0.0.1"


@click.command()
@app_option
@click.option(
    "--redis-url", help="Broker and results. Default: CELERY_BROKER_URL, REDIS_URL, else a server of its own."
)
@click.option("--api-port", type=click.IntRange(0, 65535), help="0: a free one. Default: 8000.")
@click.option("--flower-port", type=click.IntRange(0, 65535), help="0: no Flower. Default: 5555.")
@click.option("--simulate-gpus", help="Simulated devices, for instance 2x24GiB,1x80GiB.")
@click.option("--ray-address", envvar="RAY_ADDRESS", help="The Ray cluster. Default: a local one.")
@click.option("-c", "--window", type=click.IntRange(min=1), help="Messages that the bridge holds at once.")
@click.option("--state-dir", type=click.Path(file_okay=False), help="Default: .celeray")
@click.option(
    "--stop-timeout", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Seconds."
)
@click.option("-l", "--loglevel", default="INFO", show_default=True)
@click.option(
    "--head", is_flag=True, help="Run in the background, once a state dir; return when it is ready."
)
@config_option
def up(
    app: Any | None,
    redis_url: str | None,
    stop_timeout: float,
    loglevel: str,
    head: bool,
    config_file: str | None,
    **flags: Any,
) -> None:
    """Run everything on this machine until Ctrl-C; a second Ctrl-C stops without waiting for tasks."""
    if app is None:
        raise click.UsageError("give the Celery app: -A proj.app")
    name = app if isinstance(app, str) else str(app.main)
    if head:
        given = {"app": name, "config": config_file, **flags}
        given |= {"stop_timeout": stop_timeout, "loglevel": loglevel}
        # By environment: the URL may hold a password.
        url = {URL_VARIABLES[0]: redis_url} if redis_url else {}
        start_in_background(as_arguments(given), state_dir(flags.get("state_dir"), config_file), url)
        return
    chosen = ("simulate_gpus", "ray_address", "window", "state_dir", "api_port", "flower_port")
    loaded = load_app(app)
    settings = Settings.load(
        loaded.conf, config_file=config_file, app=name, **{key: flags.get(key) for key in chosen}
    )
    if settings.simulate_gpus:
        parse_spec(settings.simulate_gpus)
    with locked(settings.state_dir):
        run_stack(
            name,
            settings,
            key_prefix=broker_keys(loaded).prefix,
            redis_url=redis_url or environment_url(),
            config_file=config_file,
            loglevel=loglevel,
            deadline_s=stop_timeout,
        )


def as_arguments(given: Mapping[str, Any]) -> list[str]:
    """The options once more, for the `celeray up` that runs in the background."""
    return [
        text
        for key, value in given.items()
        if value is not None
        for text in (f"--{key.replace('_', '-')}", str(value))
    ]


def state_dir(flag: str | None, config_file: str | None) -> Path:
    """Where `up` keeps its state, found without importing the app."""
    return Settings.load(config_file=config_file, state_dir=flag).state_dir


def run_stack(
    app: str,
    settings: Settings,
    *,
    key_prefix: str,
    redis_url: str | None,
    config_file: str | None,
    loglevel: str,
    deadline_s: float,
) -> None:
    """Run every part until a signal comes. Nothing of them runs when it returns.

    Raises:
        ConfigurationError: a port is taken, the API may not be served so, or there is no Redis server to start.
    """
    check_start(settings)
    api_port = chosen_port(settings.api_host, settings.api_port, "--api-port")
    flower_port = settings.flower_port and chosen_port(LOOPBACK, settings.flower_port, "--flower-port")
    output = Output()
    if flower_port and importlib.util.find_spec("flower") is None:
        output.line("up", "Flower is not installed (pip install flower): going on without it")
        flower_port = 0
    redis = None if redis_url else RedisPart(settings.state_dir / "redis", output)
    url = redis_url or (redis.url if redis else "")
    plan = Plan(
        app=app,
        settings=settings,
        broker_url=url,
        result_backend=os.environ.get("CELERY_RESULT_BACKEND") or url,
        key_prefix=key_prefix,
        api_port=api_port,
        flower_port=flower_port,
        config_file=config_file,
        loglevel=loglevel,
    )
    env = environment(plan, os.environ, of_ray_up=bool(os.environ.get("CELERAY_OF_RAY_UP")))
    parts = {name: ProcessPart(name, command, output) for name, command in commands(plan, env).items()}
    supervisor = Supervisor(stages(parts, redis), output, deadline_s=deadline_s)
    supervisor.on_restart = lambda: write_addresses(plan, parts, embedded=redis is not None)
    supervisor.install_signals()
    try:
        supervisor.start()
        announce(plan, output)
        supervisor.on_restart()
        supervisor.run()
    finally:
        supervisor.shut_down()
        (settings.state_dir / "up.json").unlink(missing_ok=True)
        output.line("up", "stopped")


def stages(parts: Mapping[str, ProcessPart], redis: RedisPart | None) -> list[list[Part]]:
    """In the order of stopping: who runs tasks, then who only shows, and Redis last, since all write to it."""
    shows = [name for name in ("api", "flower") if name in parts]
    runs: list[Part] = [part for name, part in parts.items() if name not in shows]
    last: list[list[Part]] = [[redis]] if redis else []
    shown: list[list[Part]] = [[parts[name]] for name in shows]
    return [runs, *shown, *last]


class RedisPart:
    """The embedded server; after a crash it comes back on the same port and folder."""

    name = "redis"

    def __init__(self, folder: Path, output: Output) -> None:
        self._server = EmbeddedRedis(folder, ends_with_parent=True)
        self._output = output

    @property
    def url(self) -> str:
        return self._server.url

    def start(self) -> None:
        self._server.start()
        self._output.line(self.name, f"on {self.url}, data in {self._server.directory}")

    def alive(self) -> bool:
        return self._server.pid is not None

    def ending(self) -> str:
        return f"see {self._server.directory / 'redis.log'}"

    def ask_to_end(self, *, cold: bool) -> None:
        del cold  # it only has to write its file, which takes no time
        self._server.stop()

    def kill(self) -> None:
        self._server.stop()


def announce(plan: Plan, output: Output) -> None:
    """Say where everything is."""
    output.line(
        "up", f"API on {address(plan.settings.api_host, plan.api_port)}  (/v1/status, /metrics, /docs)"
    )
    if plan.flower_port:
        output.line("up", f"Flower on {address(LOOPBACK, plan.flower_port)}")
    output.line("up", f"broker and results: {masked(plan.broker_url)}; Ctrl-C stops everything")


def write_addresses(plan: Plan, parts: Mapping[str, ProcessPart], *, embedded: bool) -> None:
    """The same for programs, in up.json, with the pids of the parts."""
    where: dict[str, Any] = {
        "pid": os.getpid(),
        "app": plan.app,
        "redis_url": masked(plan.broker_url),
        "embedded_redis": embedded,
        "api_url": address(plan.settings.api_host, plan.api_port),
        "flower_url": address(LOOPBACK, plan.flower_port) if plan.flower_port else None,
        "parts": {name: part.pid for name, part in parts.items()},
    }
    path = plan.settings.state_dir / "up.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(where, indent=2), "utf-8")
    partial.replace(path)


def chosen_port(host: str, port: int, option: str) -> int:
    """A free port for 0, else `port` itself.

    Raises:
        ConfigurationError: it is taken; names port and option.
    """
    if port == 0:
        return free_port()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigurationError(f"{option}={port}: {error.strerror}; choose another, or 0") from error
    return port


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the state folder: two embedded servers on one append-only file would destroy it.

    Raises:
        ConfigurationError: another `celeray up` holds it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise ConfigurationError(
                f"--state-dir={folder}: `celeray up` with pid {lock.read().strip() or 'unknown'} runs there"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
