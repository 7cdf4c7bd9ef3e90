"""`celeray.install(app)`: everything that celeray does on a producer or a plain worker.

Defaults go beneath what the user set, wherever they set it and whenever: before or after `install`, in
`config_from_object` or on `app.conf`. What breaks a promise is warned about and left as it is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.utils.imports import symbol_by_name

from celeray.scheduler import results
from celeray.scheduler.amqp import amqp_class
from celeray.scheduler.bridge import control as bridge_control
from celeray.scheduler.choosing import ChooseMessages
from celeray.scheduler.defaults import Defaults, add_beneath, defaults_for, rebind_tasks, user_conf
from celeray.scheduler.endings.step import SettleRuns
from celeray.scheduler.etas import ScheduleEtas
from celeray.scheduler.event_buffering import BufferEvents
from celeray.scheduler.forwarding import ForwardStep
from celeray.scheduler.gating import GateTasks, gate_tasks, gate_tasks_of
from celeray.scheduler.holding import KeepHeld
from celeray.scheduler.installed import Installed, installed_on, remember, settings_of
from celeray.scheduler.limits.step import LimitRuns
from celeray.scheduler.promises import refuse_pickle, refuse_policies_without_redis, warn_of_broken
from celeray.scheduler.refused_messages import ParkRefused
from celeray.scheduler.remote_control import ControlNode
from celeray.scheduler.revoking import HonourRevokes, control_class
from celeray.scheduler.settings import CONF_PREFIX, Settings
from celeray.scheduler.submission.holds import ReleaseHolds
from celeray.scheduler.submission.single import send_once
from celeray.scheduler.topology import PRIORITY_STEPS, BrokerKind, kind_of_conf
from celeray.scheduler.transport.counting import CountRuns
from celeray.scheduler.transport.hearing import HearChildren
from celeray.scheduler.worker_steps import CheckPromises, SelectQueues

__all__ = ["bridge_control", "create_amqp", "create_control", "install", "settings_of"]

CONSUMER_STEPS = (
    BufferEvents,
    ChooseMessages,
    CountRuns,
    ForwardStep,
    HearChildren,
    HonourRevokes,
    KeepHeld,
    LimitRuns,
    ParkRefused,
    ReleaseHolds,
    ScheduleEtas,
    SettleRuns,
)


def install(app: Any, settings: Settings | None = None) -> Settings:
    """Put celeray on a Celery app, before or after its tasks are declared. Again changes nothing.

    Args:
        app: the Celery app, or a proxy of it.
        settings: to use as they are. None: from `CELERAY_*`, `celeray.toml` and the app's `celeray_*` keys, which
            are read again when the app's configuration is loaded.

    Returns:
        The settings as known now. `settings_of(app)` tells what they are once the app is configured.

    Raises:
        ConfigurationError: a setting is wrong, the app accepts pickle, or has retry policies on AMQP without a Redis.
            For an app that is not configured yet, what its configuration adds is refused when that is loaded.
    """
    app = _real(app)
    found = installed_on(app)
    if found is None:
        known = settings or Settings.load(app.conf if app.configured else app._preconf)
        found = Installed(known, given=settings)
        remember(app, found)
        _attach(app, settings)
    elif settings is not None and settings != found.settings:
        found.settings = found.given = settings
        _attach(app, settings)
        if app.configured:
            Defaults.remove(app.conf)
    if app.configured:
        _complete(app)
    return found.settings


def _real(app: Any) -> Any:
    current = getattr(app, "_get_current_object", None)
    return current() if current else app


def _attach(app: Any, settings: Settings | None) -> None:
    """What needs no configuration."""
    # A name stays a name inside, so that an app that could be pickled still can be.
    app.amqp_cls = partial(create_amqp, _without_ours(app.amqp_cls), settings)
    app.control_cls = partial(create_control, _without_ours(app.control_cls))
    for made in ("amqp", "control"):
        app.__dict__.pop(made, None)
    app._pool = None
    # What dedup makes of a call is known where it is sent only, and Celery makes the result where it is called.
    app.send_task = partial(send_once, app, _without_ours(app.send_task))
    app.loader.override_backends = {**results.OVERRIDES, **app.loader.override_backends}
    app.steps["consumer"].update(CONSUMER_STEPS)
    app.steps["worker"].update((CheckPromises, SelectQueues, GateTasks))
    app.on_after_finalize.connect(gate_tasks_of)
    if app.finalized:
        gate_tasks(app)
    if not app.configured:
        app.add_defaults(partial(_complete_loaded, app))
    # Sent each time that a configuration is loaded; a second one would come without the defaults.
    app.on_after_configure.connect(_on_configured, weak=False)


def _without_ours(made_by: Any) -> Any:
    ours = isinstance(made_by, partial) and made_by.func in (create_amqp, create_control, send_once)
    if not ours:
        return made_by
    return made_by.args[1] if made_by.func is send_once else made_by.args[0]


def create_control(base: Any, app: Any) -> Any:
    """`app.control_cls` of an installed app: revokes are kept, and remote control speaks JSON, which all understand.

    Celery writes commands and replies with the tasks' serializer, so a stock `celery inspect` could not read them.
    """
    control = control_class(symbol_by_name(base))(app)
    control.mailbox.node_cls = ControlNode
    if control.mailbox.serializer == "msgpack" and "json" in app.conf.accept_content:
        control.mailbox.serializer = "json"
    return control


def create_amqp(base: Any, settings: Settings | None, app: Any) -> Any:
    """`app.amqp_cls` of an installed app.

    An app that was unpickled in another process has this class and nothing else of the installation.
    """
    if installed_on(app) is None:
        install(app, settings)
    found = symbol_by_name(base)
    return amqp_class(found)(app)


def _complete_loaded(app: Any) -> dict[str, Any]:
    _complete(app)
    return {}


def _on_configured(sender: Any, **_: Any) -> None:
    if installed_on(sender) is not None:
        _complete(sender)


def _complete(app: Any) -> None:
    """What needs the configuration: settings, defaults, checks. Does nothing where it was done for this one."""
    conf, found = app.conf, installed_on(app)
    if found is None or Defaults.on(conf):
        return
    refuse_pickle(conf)
    if found.given is None:
        _reload(app, found)
    kind = kind_of_conf(conf)
    refuse_policies_without_redis(conf, kind, found.settings)
    add_beneath(conf, defaults_for(user_conf(conf), found.settings))
    _merge_transport_options(conf, kind)
    rebind_tasks(app)
    app._backend_cache = None
    app._local.__dict__.pop("backend", None)
    warn_of_broken(conf, kind, found.warned)


def _reload(app: Any, found: Installed) -> None:
    conf = app.conf
    # By name, since keys of a namespace (CELERY_CELERAY_WINDOW) are found by asking only.
    named = {f"{CONF_PREFIX}{name}": conf.get(f"{CONF_PREFIX}{name}") for name in Settings.model_fields}
    keys = {key: value for key, value in named.items() if value is not None}
    listed = {key: conf[key] for key in list(conf) if isinstance(key, str) and key.startswith(CONF_PREFIX)}
    settings = Settings.load({**keys, **listed})
    if settings != found.settings:
        found.settings = settings
        app.__dict__.pop("amqp", None)


def _merge_transport_options(conf: Any, kind: BrokerKind) -> None:
    """For those who read the conf, such as Flower; connections get the steps by themselves."""
    options = conf.broker_transport_options or {}
    if kind is BrokerKind.REDIS and "priority_steps" not in options:
        conf.broker_transport_options = {**options, "priority_steps": PRIORITY_STEPS}
