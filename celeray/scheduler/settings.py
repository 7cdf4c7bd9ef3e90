"""Settings: CLI flag, then `CELERAY_*`, then `celeray.toml`, then `celeray_*` keys of the app's conf, then defaults.

What Celery owns (broker, result backend, serializers, time limits) is never restated here. A `Settings` is frozen,
built once and validated as a whole; an unknown key is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from celeray.scheduler.backoff import BUILT_IN, RetryPolicy, chosen
from celeray.scheduler.elastic.node_types import NodeType
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.limits.declaration import LimitDeclaration
from celeray.scheduler.tenants import BOUND, WEIGHT_LEAST, WEIGHT_MOST, is_name

CONF_PREFIX = "celeray_"
TOML, CONF = "_toml_file", "_app_conf"
"""Under these names `load` passes its sources, since pydantic-settings asks for them once a class."""
DEFAULT_ROUTES = {
    "generate_image": "gpu.generation",
    "generate_video": "gpu.generation",
    "apply_style_transfer": "gpu.processing",
    "run_upscaling": "gpu.processing",
    "analyze_scene": "cpu.analysis",
    "extract_metadata": "cpu.analysis",
    "generate_thumbnail": "cpu.thumbnail",
    "create_preview": "cpu.thumbnail",
    "save_to_storage": "io.storage",
    "upload_to_cloud": "io.storage",
    "cleanup_temp_files": "io.storage",
}


class WorkerSettings(BaseModel):
    """One `[workers.NAME]`: a plain Celery worker that `celeray up` starts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queues: tuple[str, ...] = Field(min_length=1)
    pool: Literal["prefork", "threads", "solo", "gevent", "eventlet"] = "prefork"
    concurrency: int = Field(default=2, ge=1, le=4096)
    max_tasks_per_child: int | None = Field(default=None, ge=1)


def _default_workers() -> dict[str, WorkerSettings]:
    return {
        "cpu": WorkerSettings(queues=("cpu.analysis", "cpu.thumbnail", "priority"), concurrency=2),
        "io": WorkerSettings(queues=("io.storage",), pool="threads", concurrency=8),
    }


class Settings(BaseSettings):
    """Everything that can be configured, with its unit and bound."""

    model_config = SettingsConfigDict(
        env_prefix="CELERAY_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
    )

    # Queues and routes
    queues: tuple[str, ...] = (
        "gpu.generation",
        "gpu.processing",
        "cpu.analysis",
        "cpu.thumbnail",
        "io.storage",
        "priority",
        "dlq",
    )
    default_queue: str = "cpu.analysis"
    priority_queue: str = "priority"
    dead_letter_queue: str = "dlq"
    gpu_queue_prefix: str = "gpu."
    """Queues whose name begins so belong to the bridge, and their default request is a whole device."""
    gpu_large_queue: str = "gpu.generation"
    gpu_small_queue: str = "gpu.processing"
    gpu_large_above_mib: int = Field(default=8 * 1024, ge=1)
    """A request of more VRAM than this goes to `gpu_large_queue`."""
    routes: dict[str, str] = Field(default_factory=lambda: dict(DEFAULT_ROUTES))
    """Queue by short task name (what follows the last dot)."""
    amqp_exchange: str = "auteur"
    """Prefix of the exchanges on AMQP: `auteur`, `auteur.priority`, `auteur.dlq`. Redis uses none."""

    transport: Literal["kombu", "leased"] = "leased"
    """How messages are taken from Redis: under leases, renewed while a task runs, or by kombu's own transport."""

    eta_in_memory_s: float = Field(default=15.0, ge=1, le=86_400)
    """On the leased transport: a task with an eta further away waits in Redis, until so long before it."""

    limits: dict[str, LimitDeclaration] = Field(default_factory=dict)
    """Cluster-wide limits, each by a pattern of full task names."""

    # Retries
    retry_policies: dict[str, str] = Field(default_factory=dict)
    """Name of a policy by a pattern of full task names. A task that none matches is retried by none."""
    custom_retry_policies: dict[str, RetryPolicy] = Field(default_factory=dict)
    """Policies by name, besides `default`, `critical` and `batch`, or in their place."""

    # Results
    result_ttl_s: int = Field(default=3600, ge=1)
    compress_results_above_bytes: int = Field(default=64 * 1024, ge=0)
    """Results longer than this are stored gzipped. 0: never."""

    # Submission
    dedup_hold_max_s: int = Field(default=3 * 24 * 3600, ge=60, le=366 * 24 * 3600)
    """A dedup key that nobody let go of is free after so long: its message was purged, say."""
    publish_memory_s: int = Field(default=600, ge=1, le=86_400)
    """So long a repetition of a deduplicated, durable or batch submission writes nothing again."""
    durable_replicas: int = Field(default=0, ge=0, le=16)
    """Replicas that must have a message before its publish returns. 0: none."""
    durable_timeout_s: float = Field(default=1.0, ge=0.001, le=60)
    """How long they may take."""
    batch_max_messages: int = Field(default=10_000, ge=1, le=100_000)
    batch_max_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, le=512 * 1024 * 1024)
    """Redis serves nobody else while it takes a batch."""

    # Dead letters
    letter_retention_s: int = Field(default=24 * 3600, ge=60, le=366 * 24 * 3600)
    """The keeper forgets dead letters that were parked longer ago, and logs how many."""
    letters_max: int = Field(default=10_000, ge=1, le=1_000_000)
    """Of more dead letters than this the keeper forgets the oldest, and logs how many."""

    failed_task_letters: bool = True
    """Park the message of a run that failed for good. What no worker can run is parked in any case."""

    # Bridge
    app: str | None = None
    """The Celery app as `-A` names it; executors load it the same way."""
    cluster: str = "celeray.actors.cluster:RayCluster"
    window: int = Field(default=256, ge=1, le=100_000)
    """Messages that the bridge holds at once, waiting or running."""
    batch_max_runs: int = Field(default=256, ge=1, le=10_000)
    """Most short tasks in one call to an executor. 1: each its own call."""
    batch_short_s: float = Field(default=0.010, gt=0, le=1)
    """A task whose runs take less counts as short. A longer one gains little: a call costs about 2 ms."""
    vram_headroom_mib: int = Field(default=0, ge=0)
    """Never given out on any device."""
    exclusive_foreign_mib: int = Field(default=1024, ge=0)
    """Foreign memory up to which a device still counts as whole: a display server, say."""
    placement_policy: Literal["default", "fgd", "best_fit", "first_fit", "spread"] = "default"
    """Which devices a new executor gets, of those with room."""
    reservation: bool = True
    """Keep room for the first task that has no place, so that smaller ones never delay it."""
    shortest_first: bool = True
    """Once room is kept for a task, those of one priority behind it go shortest expected run first."""
    priority_aging_s: float = Field(default=60.0, ge=0, le=86_400)
    """A task that the bridge holds rises by one priority in this time, up to 9. 0: never."""
    overtaken_max: int = Field(default=10_000, ge=1, le=1_000_000_000)
    """So many tasks of lower priority may begin where a waiting one could run; then they wait for it."""
    preemption: bool = False
    """End a run that is preemptible, and put its message back, for a task of priority 9 or 10 that has no place."""
    unknown_run_s: float = Field(default=3600.0, gt=0, le=366 * 86_400)
    """How long a run is taken to last of which nothing is known."""
    tenant_weights: dict[str, float] = Field(default_factory=dict)
    """Weights of tenants by name: with 3 beside 1 a tenant gets three times the VRAM. One that is not named has 1."""
    tenant_half_life_s: float = Field(default=1800.0, ge=60, le=30 * 86_400)
    """In this time half of what a tenant has used is forgotten."""
    reading_interval_s: float = Field(default=1.0, gt=0, le=60)
    reading_max_age_s: float = Field(default=15.0, gt=0)
    """A node without a reading for longer than this gives out nothing."""
    leak_after_s: float = Field(default=30.0, ge=1, le=86_400)
    """So long VRAM of an ended executor may take to come back before its device counts as leaking."""
    canary_interval_s: float = Field(default=60.0, ge=0, le=86_400)
    """Time between two canaries on a device that an XID keeps out. 0: none, an operator takes it back."""
    peak_interval_s: float = Field(default=0.25, ge=0, le=60)
    """How often an executor looks at the VRAM that it uses, while it runs a task. 0: never, and nothing is learned."""
    learned_runs_min: int = Field(default=10, ge=1, le=100_000)
    """Runs of a task that were observed on a device model before what they used counts."""
    learned_headroom_pct: int = Field(default=10, ge=0, le=1_000)
    """Percent that a learned request is above the p95 of what was observed."""
    out_of_memory_runs_max: int = Field(default=5, ge=1, le=20)
    """Most runs of a message while its GPU memory runs out, each with more than the one before; the last one's failure
    is the task's. 1: the first one's is."""
    limit_vram: bool = True
    """Keep frameworks in an executor that shares its devices within what it reserved there, where that is possible."""
    never_fits_after_s: float = Field(default=60.0, ge=0)
    """A task that no node can hold, even idle, waits this long for a larger one to come; then it fails."""
    elastic: dict[str, NodeType] = Field(default_factory=dict)
    """Node types that Ray's autoscaler may add, by their name there. Empty: nothing is asked for or given back."""
    elastic_idle_s: float = Field(default=300.0, ge=1, le=86_400)
    """A node of such a type that runs nothing for longer is given back."""
    cluster_may_grow: bool = False
    """An autoscaler may add nodes of other kinds: nothing is refused as too large, it waits."""
    executor_start_concurrency: int = Field(default=4, ge=1)
    """Executors that start at the same time on one node; loading an app is CPU work."""
    executor_start_timeout_s: float = Field(default=180.0, gt=0)
    executor_idle_timeout_s: float = Field(default=900.0, ge=0)
    """An executor idle for longer ends and gives its VRAM back. 0: only when its room is needed."""
    executor_min_stay: float = Field(default=3.0, ge=0, le=1_000)
    """Times its start: so long an executor stays warm while tasks of its class wait, though others want its room."""
    forward_env: tuple[str, ...] = (
        "CELERY_BROKER_URL",
        "CELERY_BROKER_READ_URL",
        "CELERY_BROKER_WRITE_URL",
        "CELERY_RESULT_BACKEND",
    )
    """Variables of the bridge's environment that executors get, unless their node sets them."""
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    """Ray's runtime_env for executors, for instance {"pip": [...]}."""
    simulate_gpus: str | None = None
    """Simulated devices a node, for instance 2x24GiB,1x80GiB."""
    ray_address: str | None = None

    # Around it
    workers: dict[str, WorkerSettings] = Field(default_factory=_default_workers)
    api_host: str = "127.0.0.1"
    api_allow_remote: bool = False
    """Serve the API on an address other than loopback. Everything then needs a token."""
    api_allowed_hosts: tuple[str, ...] = ()
    """Host names under which the API may be asked, besides addresses, localhost and the machine's own names."""
    api_tokens_file: Path | None = None
    """Where the API's tokens are, as `celeray token` keeps them. None: api_tokens.json in `state_dir`."""
    api_read_requires_token: bool = False
    """Ask for a token to read, too. With `api_allow_remote` the API always does."""
    metrics_celery_compat: bool = True
    """Export `celery_queue_length` too. Switch it off beside a celery-exporter, or it counts twice."""
    api_port: int = Field(default=8000, ge=0, le=65535)
    flower_port: int = Field(default=5555, ge=0, le=65535)
    """0: no Flower."""
    state_dir: Path = Path(".celeray")
    status_interval_s: float = Field(default=0.5, gt=0, le=10)
    """How often the bridge writes its state for the API."""

    @model_validator(mode="after")
    def _queues_are_declared(self) -> Settings:
        known = set(self.queues)
        named = {
            "default_queue": self.default_queue,
            "priority_queue": self.priority_queue,
            "dead_letter_queue": self.dead_letter_queue,
            "gpu_large_queue": self.gpu_large_queue,
            "gpu_small_queue": self.gpu_small_queue,
        } | {f"routes.{task}": queue for task, queue in self.routes.items()}
        for key, queue in named.items():
            if queue not in known:
                raise ValueError(f"{key}={queue!r}: not one of queues {sorted(known)}")
        return self

    @model_validator(mode="after")
    def _policies_are_known(self) -> Settings:
        known = sorted({*BUILT_IN, *self.custom_retry_policies})
        for pattern, name in self.retry_policies.items():
            if name not in known:
                raise ValueError(f"retry_policies.{pattern}={name!r}: not one of {known}")
        return self

    @model_validator(mode="after")
    def _weights_are_positive(self) -> Settings:
        for name, weight in self.tenant_weights.items():
            if not is_name(name):
                raise ValueError(f"tenant_weights.{name}={weight!r}: the key is not {BOUND}")
            if not WEIGHT_LEAST <= weight <= WEIGHT_MOST:
                raise ValueError(
                    f"tenant_weights.{name}={weight!r}: not from {WEIGHT_LEAST:g} to {WEIGHT_MOST:.0f}"
                )
        return self

    def retry_policy_of(self, task: str) -> RetryPolicy | None:
        """The policy that retries a task, by its full name. None: none does."""
        name = chosen(task, self.retry_policies)
        return None if name is None else self.custom_retry_policies.get(name) or BUILT_IN[name]

    def is_gpu_queue(self, name: str) -> bool:
        """Whether tasks on the queue run on Ray."""
        return name.startswith(self.gpu_queue_prefix)

    @property
    def tokens_file(self) -> Path:
        """Where the API's tokens are."""
        return self.api_tokens_file or self.state_dir / "api_tokens.json"

    @property
    def reads_need_token(self) -> bool:
        """Whether the API asks for a token to read."""
        return self.api_read_requires_token or self.api_allow_remote

    @property
    def gpu_queues(self) -> tuple[str, ...]:
        """The queues that the bridge alone consumes."""
        return tuple(name for name in self.queues if self.is_gpu_queue(name))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        kwargs = dict(getattr(init_settings, "init_kwargs", {}))
        toml, conf = kwargs.pop(TOML, None), kwargs.pop(CONF, {})
        sources: list[PydanticBaseSettingsSource] = [InitSettingsSource(settings_cls, kwargs), env_settings]
        if toml is not None:
            sources.append(TomlConfigSettingsSource(settings_cls, toml))
        sources.append(InitSettingsSource(settings_cls, conf))
        return tuple(sources)

    @classmethod
    def load(
        cls,
        conf: Mapping[str, Any] | None = None,
        *,
        config_file: str | os.PathLike[str] | None = None,
        **flags: Any,
    ) -> Settings:
        """Build the settings from all sources.

        Args:
            conf: the Celery app's conf, or any mapping; its `celeray_*` keys count.
            config_file: the TOML file; default `CELERAY_CONFIG`, else `celeray.toml` in the working folder.
            flags: values that win over everything. None means not given.

        Raises:
            ConfigurationError: a key is unknown, or a value out of its bound; names all of them.
        """
        given = {key: value for key, value in flags.items() if value is not None}
        try:
            return cls(**{TOML: _find_config(config_file), CONF: _celeray_keys(conf or {}), **given})
        except ValidationError as error:
            raise ConfigurationError(_describe(error)) from error


def _find_config(config_file: str | os.PathLike[str] | None) -> Path | None:
    explicit = config_file or os.environ.get("CELERAY_CONFIG")
    path = Path(explicit or "celeray.toml")
    if path.is_file():
        return path
    if explicit:
        raise ConfigurationError(f"config file {path}: no such file")
    return None


def _celeray_keys(conf: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.removeprefix(CONF_PREFIX): conf[key]
        for key in list(conf)
        if isinstance(key, str) and key.startswith(CONF_PREFIX)
    }


def _describe(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'settings'}={item['input']!r}: {item['msg']}"
        for item in error.errors()
    )
