"""`celeray keeper`: does what has to be done from time to time, whoever else is up."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Any

import click

from celeray.cli.lazy import EXIT_UNREACHABLE, CliError
from celeray.cli.options import Place, app_option, config_option, environment_url, open_place

if TYPE_CHECKING:
    from celeray.scheduler.duties.duty import Duty
    from celeray.scheduler.duties.keeper import Keeper
    from celeray.scheduler.letters.outbox import Outbox

STOPS = (signal.SIGTERM, signal.SIGINT)
VISIBILITY_TIMEOUT_S = 3600.0
"""kombu's own default, for messages of workers on its transport."""


@click.command()
@app_option
@click.option("--redis-url", help="Where the broker is, if not -A. Also CELERY_BROKER_URL, REDIS_URL.")
@click.option("--key-prefix", help="The broker's global_keyprefix, if not -A.")
@click.option("--once", is_flag=True, help="Do every duty once, print what was done, and end.")
@click.option("-l", "--loglevel", default="INFO", show_default=True)
@config_option
def keeper(
    app: Any | None,
    redis_url: str | None,
    key_prefix: str | None,
    once: bool,
    loglevel: str,
    config_file: str | None,
    **_preload: Any,
) -> None:
    """Put back expired leases and due etas, take in dead letters, and forget what is old, until SIGTERM or Ctrl-C.

    Any number may run; without one the workers on the leased transport do the most urgent of it themselves. Without -A
    the broker's transport options are taken to be the defaults, and the broker to be the Redis.
    """
    import redis

    url = redis_url or (None if app else environment_url())
    place = open_place(app, url, config_file=config_file, key_prefix=key_prefix)
    made = make_keeper(place)
    if once:
        try:
            done = made.run_each()
        except (redis.RedisError, OSError) as error:
            raise CliError(f"Redis does not answer: {error}", EXIT_UNREACHABLE) from error
        for name, text in done.items():
            click.echo(f"{name}: {text or 'nothing to do'}")
        return
    logging.basicConfig(level=loglevel.upper(), format="%(asctime)s %(levelname)s %(message)s")
    # Blocked, and taken in the pauses: a round is never cut in two.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    logging.getLogger(__name__).info("keeper %s is up", made.name)
    made.run(told_to_stop)
    logging.getLogger(__name__).info("keeper %s ended", made.name)


def told_to_stop(seconds: float) -> bool:
    """Sleep; True as soon as SIGTERM or SIGINT comes, or had come."""
    return signal.sigtimedwait(STOPS, seconds) is not None


def outbox_of(place: Place) -> Outbox | None:
    """What publishes letters of an app whose broker is no Redis. None: there is no app, or its broker is one."""
    from celeray.scheduler.letters.outbox import Outbox
    from celeray.scheduler.letters.producing import Producer
    from celeray.scheduler.topology import BrokerKind

    if place.app is None or place.broker_kind is BrokerKind.REDIS:
        return None
    return Outbox(place.store.client, place.store.keys, Producer(place.app))


def make_keeper(place: Place) -> Keeper:
    """With all duties, as the app's broker options want them.

    Raises:
        ConfigurationError: an option of the transport is wrong.
    """
    from celeray.scheduler.duties.due_etas import DueEtas
    from celeray.scheduler.duties.due_limits import DueLimits
    from celeray.scheduler.duties.due_retries import DueRetries
    from celeray.scheduler.duties.expired_leases import ExpiredLeases
    from celeray.scheduler.duties.front_door import FrontDoor
    from celeray.scheduler.duties.gone_writers import GoneWriters
    from celeray.scheduler.duties.keeper import Keeper
    from celeray.scheduler.duties.old_letters import OldLetters
    from celeray.scheduler.duties.old_revokes import OldRevokes
    from celeray.scheduler.keys import BROKER_PRIORITIES
    from celeray.scheduler.letters.store import Letters
    from celeray.scheduler.revoking import RevokeBook
    from celeray.scheduler.transport.options import LeaseOptions

    options = dict(place.app.conf.broker_transport_options or {}) if place.app is not None else {}
    client, keys = place.store.client, place.store.keys
    leases = ExpiredLeases(
        client,
        keys,
        LeaseOptions.read(options),
        visibility_timeout_s=float(options.get("visibility_timeout", VISIBILITY_TIMEOUT_S)),
        priority_steps=options.get("priority_steps", BROKER_PRIORITIES),
    )
    limits = DueLimits(client, keys)
    revokes = OldRevokes(RevokeBook(client, keys))
    letters = OldLetters(
        Letters(client, keys),
        retention_s=place.settings.letter_retention_s,
        most=place.settings.letters_max,
    )
    retries = DueRetries(
        client, keys, dedup_hold_max_s=place.settings.dedup_hold_max_s, outbox=outbox_of(place)
    )
    etas, writers = DueEtas(client, keys), GoneWriters(place.store)
    door = FrontDoor(client, keys, place.settings.dead_letter_queue)
    duties: list[Duty] = [leases, etas, retries, limits, revokes, door, letters, writers]
    return Keeper(client, keys, duties)
