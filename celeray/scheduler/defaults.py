"""Celery settings that celeray prefers, put beneath whatever the user set.

Celery's own `add_defaults` puts them above what came by `config_from_object` (`ChainMap.add_defaults` in
celery/utils/collections.py), so a map of ours goes right above Celery's defaults, which are the last.
"""

from __future__ import annotations

from typing import Any

from celeray.scheduler.settings import Settings

ACCEPTED = ["msgpack", "json"]
SOFT_SHUTDOWN_S = 10.0
"""How long running tasks may go on after the second signal."""
CHORD_MARGIN_S = 3600
"""For a member that was sent again on its letter's last day, to run."""

MSGPACK_NAMES = frozenset({"msgpack", "application/x-msgpack"})


class Defaults(dict[str, Any]):
    """Our map among the maps of a conf."""

    @staticmethod
    def on(conf: Any) -> bool:
        """Whether a conf has it."""
        return any(isinstance(mapping, Defaults) for mapping in conf.maps)

    @staticmethod
    def remove(conf: Any) -> None:
        """Take it off, to put another one on."""
        for maps in (conf.maps, conf.defaults):
            maps[:] = [mapping for mapping in maps if not isinstance(mapping, Defaults)]


def user_conf(conf: Any) -> Any:
    """A conf of only what the user set, under whatever name: old, new or with a namespace."""
    return type(conf)(
        {}, [item for item in conf.maps[:-1] if not isinstance(item, Defaults)], conf._keys, conf.prefix
    )


def add_beneath(conf: Any, defaults: Defaults) -> None:
    """Put `defaults` right above Celery's own."""
    for maps in (conf.maps, conf.defaults):
        maps.insert(len(maps) - 1, defaults)


def defaults_for(user: Any, settings: Settings) -> Defaults:
    """The defaults, given what the user set: none may contradict it."""
    defaults = Defaults(
        task_default_queue=settings.default_queue,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_track_started=True,
        task_send_sent_event=True,
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_soft_shutdown_timeout=SOFT_SHUTDOWN_S,
        result_expires=settings.result_ttl_s,
        broker_connection_retry_on_startup=True,
        # A demoted Redis master answers a blocked consumer with UNBLOCKED, which kombu takes for a channel error.
        broker_channel_error_retry=True,
        # For ever, with growing pauses: Celery's worker exits after 100 tries.
        broker_connection_max_retries=None,
    )
    if "result_expires" not in user:
        # A chord waits for a member that is a dead letter as long as the letter is kept.
        kept_s = settings.letter_retention_s + CHORD_MARGIN_S
        defaults["result_chord_expires"] = max(settings.result_ttl_s, kept_s)
    accepted = user.get("accept_content")
    if accepted is None:
        defaults["accept_content"] = _with_written(ACCEPTED, user.get("task_serializer"))
        # JSON for results: it carries dates, UUIDs and exceptions, and readers without celeray accept it.
        defaults["result_accept_content"] = _with_written(ACCEPTED, user.get("result_serializer"))
    if accepted is None or MSGPACK_NAMES.intersection(accepted):
        defaults["task_serializer"] = "msgpack"
    return defaults


def _with_written(accepted: list[str], serializer: str | None) -> list[str]:
    """What the user's own serializer writes must be accepted too."""
    return [*accepted, serializer] if serializer and serializer not in accepted else list(accepted)


def rebind_tasks(app: Any) -> None:
    """Give tasks that were bound before the settings they would have been bound to now.

    `Task.bind` copies settings onto the class and keeps no note of it. But it sets `__bound__` first, and a class
    keeps its attributes in order: what comes after was copied or annotated, what comes before was declared.
    """
    for task in list(app._tasks.values()):
        cls = type(task)
        names = list(vars(cls))
        if "__bound__" not in names:
            continue
        later = set(names[names.index("__bound__") :])
        for attribute, _ in cls.from_config:
            if attribute in later:
                setattr(cls, attribute, None)
        cls.bind(app)
        cls.annotate()
