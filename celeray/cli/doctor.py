"""`celeray doctor`: looks for what commonly goes wrong before it does."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import click
import redis

from celeray.api.access import check_start
from celeray.api.token_file import TokenFile
from celeray.cli.lazy import EXIT_FAILED
from celeray.cli.options import app_option, config_option, environment_url, load_app
from celeray.cli.render import print_table
from celeray.scheduler.broker import broker_redis, redis_from_url
from celeray.scheduler.clock import SystemClock
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.overview import nodes, read_overview
from celeray.scheduler.settings import Settings
from celeray.scheduler.status_store import StatusStore, UnreadableStatusError

CELERY_MIN = (5, 7)
TOKEN_ENDS_SOON_S = 7 * 86_400.0
SAFE_CONTENT = frozenset({"json", "msgpack", "application/json", "application/x-msgpack"})
WRONG_NVML = {
    "pynvml": "shadows the module of nvidia-ml-py and is deprecated: pip uninstall pynvml",
    "nvidia-ml-py3": "shadows the module of nvidia-ml-py and is years old: pip uninstall nvidia-ml-py3",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    verdict: Literal["ok", "warning", "failed"]
    detail: str


@click.command()
@app_option
@click.option("--redis-url", help="The broker's Redis, if not -A. Also CELERY_BROKER_URL, REDIS_URL.")
@click.option("--expect-nodes", type=click.IntRange(min=1), help="How many nodes there should be.")
@config_option
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    app: Any | None,
    redis_url: str | None,
    expect_nodes: int | None,
    config_file: str | None,
    **_preload: Any,
) -> None:
    """Check versions, tokens of Ray and the API, Celery's content types and Redis. Exit code 1 where a check failed."""
    loaded = load_app(app) if app is not None else None
    settings = Settings.load(loaded.conf if loaded else None, config_file=config_file)
    findings = [*check_packages(), *check_ray_token(os.environ), *check_api(settings)]
    if loaded is not None:
        findings += check_content(loaded.conf)
    url = redis_url or environment_url()
    if loaded is not None or url:
        client = (
            redis_from_url(redis_url or url or "") if loaded is None or redis_url else broker_redis(loaded)
        )
        findings += check_redis(client)
        findings += check_nodes(StatusStore(client), settings, expect_nodes)
    rows = [(item.verdict, item.check, item.detail) for item in findings]
    print_table(("verdict", "check", "detail"), rows, empty="nothing was checked")
    ctx.exit(EXIT_FAILED if any(item.verdict == "failed" for item in findings) else 0)


def check_packages() -> Iterator[Finding]:
    """Celery's version, and packages that get in the way."""
    found = version("celery")
    new_enough = tuple(int(part) for part in found.split(".")[:2]) >= CELERY_MIN
    yield Finding(
        "celery", "ok" if new_enough else "failed", f"{found}; needs {'.'.join(map(str, CELERY_MIN))}"
    )
    for package, reason in WRONG_NVML.items():
        try:
            yield Finding(package, "warning", f"{version(package)}: {reason}")
        except PackageNotFoundError:
            yield Finding(package, "ok", "not installed")


def check_ray_token(environment: Any) -> Iterator[Finding]:
    """Whether Ray asks for a token, and who can read it."""
    mode = environment.get("RAY_AUTH_MODE")
    if mode is None:
        yield Finding("RAY_AUTH_MODE", "warning", "unset: set it to `token` wherever `ray` is started")
    elif mode != "token":
        yield Finding(
            "RAY_AUTH_MODE", "failed", f"{mode!r}: whoever reaches Ray's ports runs code there; set `token`"
        )
    else:
        yield Finding("RAY_AUTH_MODE", "ok", "token")
    if environment.get("RAY_AUTH_TOKEN"):
        yield Finding(
            "Ray's token", "warning", "in RAY_AUTH_TOKEN, which every child sees; a 0600 file is safer"
        )
        return
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.is_file():
        yield Finding(
            "Ray's token", "warning", f"{path}: no such file; `ray get-auth-token --generate` makes one"
        )
        return
    rights = stat.S_IMODE(path.stat().st_mode)
    bad = bool(rights & 0o077)
    yield Finding(
        "Ray's token",
        "failed" if bad else "ok",
        f"{path} has mode {rights:04o}{'; chmod 600' if bad else ''}",
    )


def check_api(settings: Settings) -> Iterator[Finding]:
    """Whether the API would start, and whether its tokens are valid for long enough."""
    try:
        check_start(settings)
        tokens = TokenFile(settings.tokens_file).tokens()
    except ConfigurationError as error:
        # A node that serves no API may have the settings and no tokens.
        yield Finding("API", "warning", f"`celeray api` would not start here: {error}")
        return
    now = SystemClock().time()
    valid = [token for token in tokens if not token.expired(now)]
    ending = sorted(token.id for token in valid if token.expired(now + TOKEN_ENDS_SOON_S))
    detail = f"{len(valid)} of {len(tokens)} token(s) valid in {settings.tokens_file}"
    if ending:
        yield Finding(
            "API", "warning", f"{detail}; {', '.join(ending)} for less than a week: create the next ones"
        )
    else:
        yield Finding("API", "ok", detail if tokens else "no token: it only reads, on loopback")


def check_content(conf: Any) -> Iterator[Finding]:
    """Whether a message could carry pickled code."""
    for key in ("accept_content", "result_accept_content"):
        accepted: Sequence[str] = getattr(conf, key) or ()
        unsafe = sorted(set(accepted) - SAFE_CONTENT)
        detail = f"{list(accepted)}" + (
            f"; {unsafe} may run code of whoever reaches the broker" if unsafe else ""
        )
        yield Finding(key, "failed" if unsafe else "ok", detail)


def check_redis(client: redis.Redis) -> Iterator[Finding]:
    """Whether Redis answers, keeps what it is given, and is not open to the world."""
    try:
        info: Any = client.info()
    except redis.RedisError as error:
        yield Finding("Redis", "failed", f"does not answer: {error}")
        return
    yield Finding("Redis", "ok", f"version {info.get('redis_version')}")
    policy = info.get("maxmemory_policy", "unknown")
    lossy = policy != "noeviction"
    detail = f"{policy}{': messages are dropped when memory is full; set noeviction' if lossy else ''}"
    yield Finding("maxmemory-policy", "failed" if lossy else "ok", detail)
    yield from _check_exposure(client)


def _check_exposure(client: redis.Redis) -> Iterator[Finding]:
    given = client.connection_pool.connection_kwargs
    host = str(given.get("host") or "localhost")
    if given.get("password"):
        yield Finding("Redis access", "ok", "has a password")
    elif public := [address for address in _addresses(host) if ipaddress.ip_address(address).is_global]:
        yield Finding(
            "Redis access", "failed", f"{host} is {public[0]}, a public address, and asks for no password"
        )
    else:
        yield Finding("Redis access", "ok", f"{host} is no public address; no password")


def _addresses(host: str) -> Iterable[str]:
    try:
        return sorted({str(item[4][0]).partition("%")[0] for item in socket.getaddrinfo(host, None)})
    except OSError:
        return []


def check_nodes(store: StatusStore, settings: Settings, expected: int | None) -> Iterator[Finding]:
    """How many nodes the bridges see. Ray's v2 autoscaler starts one too few with provider local."""
    try:
        found = len(nodes(read_overview(store, settings, SystemClock().time())))
    except (redis.RedisError, UnreadableStatusError) as error:
        yield Finding("nodes", "failed", str(error))
        return
    if expected is not None and found < expected:
        hint = "with provider local, start with RAY_UP_enable_autoscaler_v2=0 ray up cluster.yaml"
        yield Finding("nodes", "failed", f"expected {expected}, have {found}; {hint}")
    else:
        yield Finding("nodes", "ok" if found else "warning", f"{found} seen by bridges")
