"""Worker steps that `install` adds: what a worker of an installed app must not do."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps

from celeray.scheduler.forwarding import runs_on_ray
from celeray.scheduler.installed import installed_on, settings_of
from celeray.scheduler.promises import refuse_letters_without_redis, refuse_pickle, warn_of_broken

logger = logging.getLogger(__name__)


class CheckPromises(bootsteps.Step):
    """Looks at the conf once more, since it may have been changed after it was loaded. Pickle refuses the start,
    and so do letters that nothing could keep."""

    def create(self, parent: Any) -> None:
        refuse_pickle(parent.app.conf)
        found = installed_on(parent.app)
        if found is not None:
            kind = parent.app.amqp.broker_kind
            refuse_letters_without_redis(parent.app.conf, kind, found.settings)
            warn_of_broken(parent.app.conf, kind, found.warned)


class SelectQueues(bootsteps.Step):
    """Without `-Q`, a worker consumes every declared queue, and a plain one can't run what is on the gpu queues."""

    def create(self, parent: Any) -> None:
        queues = parent.app.amqp.queues
        if queues._consume_from is not None:
            return
        settings = settings_of(parent.app)
        unwanted = {settings.dead_letter_queue}
        if not runs_on_ray(parent.pool_cls):
            unwanted.update(name for name in queues if settings.is_gpu_queue(name))
        left = sorted(unwanted.intersection(queues.consume_from))
        if left:
            queues.deselect(left)
            logger.info("not consuming from %s: choose queues with -Q to change that", ", ".join(left))
