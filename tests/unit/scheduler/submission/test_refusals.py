"""What is refused at publish: bad values everywhere, and on brokers other than Redis what only Redis can do."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from celery import Celery

import celeray
from celeray.scheduler.errors import (
    BatchRefusedError,
    DuplicateTaskError,
    SubmissionError,
    SubmissionUnsupportedError,
)
from celeray.scheduler.publishing import Publisher
from celeray.scheduler.settings import Settings
from celeray.scheduler.submission.durability import NotReplicatedError

REDIS, AMQP, MEMORY = "redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//", "memory://"


def make_app(broker: str, **settings: Any) -> Celery:
    app = Celery("film", broker=broker, set_as_current=False)
    celeray.install(app, Settings(**settings))

    @app.task(shared=False, name="film.cut", deduplicate=True)
    def cut() -> None: ...

    @app.task(shared=False, name="film.render")
    def render() -> None: ...

    return app


@pytest.mark.parametrize("broker", [AMQP, MEMORY])
class TestOtherBrokers:
    def test_dedup(self, broker: str) -> None:
        with pytest.raises(SubmissionUnsupportedError, match="deduplicate=True: a Redis broker"):
            make_app(broker).tasks["film.cut"].delay()

    def test_durable(self, broker: str) -> None:
        app = make_app(broker)
        with pytest.raises(SubmissionUnsupportedError, match="durable_replicas=1: a Redis broker"):
            app.tasks["film.render"].apply_async(headers={"durable_replicas": 1})
        with pytest.raises(SubmissionUnsupportedError, match="durable_replicas=2"):
            make_app(broker, durable_replicas=2).tasks["film.render"].delay()

    def test_batches(self, broker: str) -> None:
        app = make_app(broker)
        with pytest.raises(SubmissionUnsupportedError, match="submit_batch=1: a Redis broker"):
            celeray.submit_batch([app.tasks["film.render"].s()], app)

    def test_what_is_switched_off_is_none_of_it(self, broker: str) -> None:
        app = make_app(broker)
        message = app.amqp.create_task_message("id", "film.cut", (), {})
        publisher = Publisher(app.amqp)
        prepared = publisher.prepare("film.cut", message, {"headers": {"deduplicate": False}})
        assert publisher.terms("film.cut", message, prepared) is None


@pytest.mark.parametrize("value", [-1, 17, True, "1", 1.5])
def test_durable_replicas_has_a_bound(value: Any) -> None:
    with pytest.raises(SubmissionError, match=r"durable_replicas=.*from 0 to 16"):
        make_app(REDIS).tasks["film.render"].apply_async(headers={"durable_replicas": value})


@pytest.mark.parametrize("value", [0, -1, True, "1h", 1.5, 10**10])
def test_result_ttl_has_a_bound(value: Any) -> None:
    with pytest.raises(SubmissionError, match=r"result_ttl_s=.*whole seconds from 1"):
        make_app(REDIS).tasks["film.render"].apply_async(headers={"result_ttl_s": value})


def test_the_old_message_protocol() -> None:
    app = make_app(REDIS)
    app.conf.task_protocol = 1
    with pytest.raises(SubmissionError, match="task_protocol=1"):
        app.tasks["film.cut"].delay()


@pytest.mark.parametrize(
    "error",
    [
        BatchRefusedError(3, "why"),
        DuplicateTaskError("film.cut", "2", "1", True),
        NotReplicatedError(["1", "2"], 2, 1, 0.5),
        SubmissionUnsupportedError("deduplicate", True, "Redis"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_their_way_through_a_result_backend(error: Exception) -> None:
    copied = pickle.loads(pickle.dumps(error))
    assert (str(copied), vars(copied)) == (str(error), vars(error))
