"""What a message is when it leaves the producer: refused, or with its priority translated once."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery
from celery._state import _task_stack

import celeray
from celeray.scheduler.errors import ConfigurationError, FlagError, RequirementError
from celeray.scheduler.publishing import WORKER_RETRY_POLICY, Publisher, survives_msgpack
from celeray.scheduler.settings import Settings

REDIS, AMQP = "redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"


class RecordingProducer:
    """Takes what Celery would hand to kombu; connects to nothing."""

    def __init__(self, app: Celery) -> None:
        self.connection = app.connection_for_write()
        self.sent: list[dict[str, Any]] = []

    def publish(self, body: Any, **options: Any) -> None:
        if "celeray_priority" in (options.get("headers") or {}):
            self.sent.append({"body": body, **options})


def make_app(broker: str, **conf: Any) -> Celery:
    app = Celery("film", broker=broker, set_as_current=False)
    app.conf.update(conf)
    celeray.install(app)

    @app.task(shared=False, name="film.generate_image", resource_requirements={"vram_gb": 12})
    def generate_image(*args: Any, **kwargs: Any) -> None: ...

    @app.task(shared=False, name="film.other")
    def other(*args: Any, **kwargs: Any) -> None: ...

    @app.task(shared=False, name="film.plain")
    def plain(*args: Any, **kwargs: Any) -> None: ...

    return app


@pytest.fixture
def app() -> Celery:
    return make_app(REDIS)


def send(
    app: Celery, name: str = "film.plain", args: Any = (), kwargs: Any = None, **options: Any
) -> dict[str, Any]:
    producer = RecordingProducer(app)
    app.tasks[name].apply_async(args, kwargs, producer=producer, **options)
    return producer.sent[0]


def priority_of(sent: dict[str, Any]) -> tuple[int, int]:
    """The broker's and the header's."""
    return sent["priority"], sent["headers"]["celeray_priority"]


class TestClass:
    def test_tasks_of_the_bridge_say_what_they_are_alike_to(self, app: Celery) -> None:
        whole, part = ({"resource_requirements": {"vram_gb": size}} for size in (12, 20))
        named = [
            send(app, "film.generate_image", headers=headers)["headers"] for headers in ({}, whole, part)
        ]
        assert named[0]["celeray_class"] == named[1]["celeray_class"] != named[2]["celeray_class"]

    def test_others_say_nothing(self, app: Celery) -> None:
        assert "celeray_class" not in send(app)["headers"]

    def test_each_tenant_has_its_own(self, app: Celery) -> None:
        told = [
            send(app, "film.generate_image", headers={"tenant": tenant})["headers"]["celeray_class"]
            for tenant in (None, "a", "b")
        ]
        assert len(set(told)) == 3
        assert send(app, "film.generate_image")["headers"]["celeray_class"] == told[0]


class TestTenant:
    def test_it_goes_with_the_message(self, app: Celery) -> None:
        assert send(app, headers={"tenant": "team-a"})["headers"]["tenant"] == "team-a"

    @pytest.mark.parametrize("value", ["", "  ", "x" * 65, "a\nb", 7, ["a"], b"a"])
    def test_what_is_no_name_is_refused_for_a_bridge_and_left_to_the_app_elsewhere(
        self, app: Celery, value: Any
    ) -> None:
        with pytest.raises(RequirementError, match=r"tenant=.*1 to 64"):
            send(app, "film.generate_image", headers={"tenant": value})
        assert send(app, headers={"tenant": value})["headers"]["tenant"] == value

    @pytest.mark.usefixtures("in_task")
    def test_a_retry_keeps_what_its_message_had(self, app: Celery) -> None:
        sent = send(app, "film.generate_image", headers={"tenant": 42})["headers"]
        assert sent["tenant"] == 42

    @pytest.mark.parametrize("headers", [{}, {"tenant": None}])
    def test_where_nobody_is_named_the_header_is_not_there(self, app: Celery, headers: Any) -> None:
        assert "tenant" not in send(app, headers=headers)["headers"]

    @pytest.fixture
    def in_task(self, app: Celery) -> Iterator[None]:
        app.tasks["film.other"].push_request(
            id="running", called_directly=False, headers={"tenant": "team-a", "mine": 1}
        )
        _task_stack.push(app.tasks["film.other"])
        yield
        _task_stack.pop()
        app.tasks["film.other"].pop_request()

    @pytest.mark.usefixtures("in_task")
    def test_what_a_running_task_publishes_is_its_tenants(self, app: Celery) -> None:
        assert send(app)["headers"]["tenant"] == "team-a"
        assert send(app, headers={"tenant": "team-b"})["headers"]["tenant"] == "team-b"
        assert "tenant" not in send(app, headers={"tenant": None})["headers"]
        inherited, named = (
            send(app, "film.generate_image", headers=headers)["headers"]["celeray_class"]
            for headers in ({}, {"tenant": "team-a"})
        )
        assert inherited == named

    def test_a_second_publish_with_another_request_says_another_class(self, app: Celery) -> None:
        first = send(app, "film.generate_image")["headers"]
        again = send(app, "film.generate_image", headers={**first, "resource_requirements": {"vram_gb": 20}})
        assert again["headers"]["celeray_class"] != first["celeray_class"]


class TestPriority:
    @pytest.mark.parametrize(
        ("options", "priority"),
        [
            ({}, 5),
            ({"priority": 9}, 9),
            ({"priority": 0}, 1),
            ({"headers": {"priority": 3}}, 3),
            ({"kwargs": {"priority": 3}}, 3),
            ({"priority": 9, "headers": {"priority": 3}}, 9),
            ({"headers": {"user_initiated": True}}, 7),
            ({"priority": 9, "headers": {"user_initiated": True}}, 10),
            ({"kwargs": {"batch_size": 11}}, 4),
            ({"kwargs": {"priority": "high"}}, 5),
        ],
    )
    def test_it_is_translated_for_the_broker(self, options: dict[str, Any], priority: int) -> None:
        assert priority_of(send(make_app(REDIS), **options)) == (10 - priority, priority)
        assert priority_of(send(make_app(AMQP), **options)) == (priority, priority)

    def test_the_apps_default_priority_counts_unless_the_call_says_another(self) -> None:
        app = make_app(REDIS, task_default_priority=8)
        assert priority_of(send(app)) == (2, 8)
        assert priority_of(send(app, headers={"priority": 3})) == (7, 3)
        assert priority_of(send(app, priority=6)) == (4, 6)

    def test_the_second_publish_of_a_task_translates_and_adds_nothing_again(self, app: Celery) -> None:
        headers = {"user_initiated": True}
        for _ in range(5):
            sent = send(
                app,
                **({"priority": headers["celeray_priority"]} if "celeray_priority" in headers else {}),
                headers=headers,
            )
            headers = {key: sent["headers"][key] for key in ("user_initiated", "celeray_priority")}
        assert priority_of(sent) == (3, 7)

    def test_another_priority_at_a_retry_is_a_new_base(self, app: Celery) -> None:
        headers = {"user_initiated": True, "celeray_priority": 7}
        assert priority_of(send(app, priority=4, headers=headers)) == (4, 6)

    def test_a_stale_header_alone_means_nothing(self, app: Celery) -> None:
        assert priority_of(send(app, headers={"celeray_priority": 9})) == (5, 5)

    @pytest.mark.parametrize("option", [-1, 11, 3.5, "7"])
    def test_a_bad_option_is_refused(self, app: Celery, option: Any) -> None:
        with pytest.raises(FlagError, match="priority="):
            send(app, priority=option)

    def test_a_bad_flag_in_a_header_is_refused(self, app: Celery) -> None:
        with pytest.raises(FlagError, match="user_initiated='yes'"):
            send(app, headers={"user_initiated": "yes"})

    def test_kwargs_reach_the_task_as_they_were(self, app: Celery) -> None:
        kwargs = {"priority": 3, "priority_task": True, "user_initiated": True, "batch_size": 20}
        sent = send(app, kwargs=dict(kwargs))
        assert sent["body"][1] == kwargs
        assert sent["routing_key"] == "priority"
        assert priority_of(sent) == (6, 4)


class TestQueue:
    @pytest.mark.parametrize(
        ("name", "options", "queue"),
        [
            ("film.generate_image", {}, "gpu.generation"),
            ("film.generate_image", {"headers": {"resource_requirements": {"vram_gb": 2}}}, "gpu.processing"),
            ("film.generate_image", {"headers": {"priority_task": True}}, "priority"),
            ("film.generate_image", {"queue": "cpu.thumbnail"}, "cpu.thumbnail"),
            ("film.plain", {}, "cpu.analysis"),
            ("film.plain", {"queue": "elsewhere", "headers": {"priority_task": True}}, "elsewhere"),
        ],
    )
    @pytest.mark.parametrize("broker", [REDIS, AMQP])
    def test_it_goes_by_the_anonymous_exchange(
        self, broker: str, name: str, options: Any, queue: str
    ) -> None:
        sent = send(make_app(broker), name, **options)
        assert (sent["exchange"], sent["routing_key"]) == ("", queue)

    def test_the_users_routes_come_first(self) -> None:
        app = make_app(REDIS, task_routes={"film.generate_image": {"queue": "mine"}, "film.p*": "other"})
        assert send(app, "film.generate_image")["routing_key"] == "mine"
        assert send(app, "film.plain")["routing_key"] == "other"
        assert send(app, "film.other")["routing_key"] == "cpu.analysis"

    def test_the_users_default_queue_counts(self) -> None:
        app = make_app(REDIS, task_default_queue="mine")
        assert send(app)["routing_key"] == "mine"
        assert send(app, "film.generate_image")["routing_key"] == "gpu.generation"
        assert "mine" in app.amqp.queues.consume_from

    @pytest.mark.parametrize(
        ("name", "queue"), [("x.generate_video", "gpu.generation"), ("x.other", "cpu.analysis")]
    )
    def test_producers_that_know_only_the_name(self, app: Celery, name: str, queue: str) -> None:
        producer = RecordingProducer(app)
        app.send_task(name, producer=producer)
        assert producer.sent[0]["routing_key"] == queue
        producer = RecordingProducer(app)
        app.send_task(name, producer=producer, headers={"resource_requirements": {"vram_gb": 2}})
        assert producer.sent[0]["routing_key"] == "gpu.processing"


class TestRefused:
    @pytest.mark.parametrize(
        "options", [{}, {"queue": "cpu.analysis"}, {"exchange": "e", "routing_key": "k"}]
    )
    def test_requirements_that_can_not_be_understood(self, app: Celery, options: dict[str, Any]) -> None:
        producer = RecordingProducer(app)
        with pytest.raises(RequirementError, match="vram_gb='12 elephants'"):
            app.send_task(
                "x.y",
                producer=producer,
                headers={"resource_requirements": {"vram_gb": "12 elephants"}},
                **options,
            )
        assert producer.sent == []

    def test_a_bad_attribute_is_refused_at_the_call(self, app: Celery) -> None:
        @app.task(shared=False, name="film.bad", resource_requirements={"vramm": 1})
        def bad() -> None: ...

        with pytest.raises(RequirementError, match="unknown key"):
            send(app, "film.bad")

    def test_pickle(self, app: Celery) -> None:
        with pytest.raises(ConfigurationError, match="serializer='pickle'"):
            send(app, serializer="pickle")


class TestSerializer:
    def test_msgpack_by_default(self, app: Celery) -> None:
        assert send(app, args=({"a": b"\x00", "b": [1.5, None]},))["serializer"] == "msgpack"

    @pytest.mark.parametrize(
        "value",
        [datetime.now(UTC), uuid.uuid4(), Decimal("1.5"), {1: "a"}, 2**70, "\ud800"],
        ids=lambda v: type(v).__name__,
    )
    def test_json_for_what_msgpack_can_not_carry(self, app: Celery, value: Any) -> None:
        assert not survives_msgpack(((value,), {}, {}))
        assert send(app, args=(value,))["serializer"] == "json"

    def test_the_users_choice_stays(self) -> None:
        app = make_app(REDIS, task_serializer="json")
        assert send(app)["serializer"] == "json"
        assert send(app, serializer="yaml")["serializer"] == "yaml"

    def test_an_app_that_accepts_only_json_writes_json(self) -> None:
        app = make_app(REDIS, accept_content=["json"])
        assert send(app)["serializer"] == "json"

    def test_the_old_message_protocol(self) -> None:
        sent = send(make_app(REDIS, task_protocol=1), kwargs={"priority": 9})
        assert sent["priority"] == 1
        assert sent["body"]["kwargs"] == {"priority": 9}


class TestPatience:
    """How long a publish that the broker refuses is tried again."""

    def policy(self, app: Celery, **options: Any) -> Any:
        return send(app, **options)["retry_policy"]

    @pytest.fixture
    def in_task(self, app: Celery) -> Iterator[None]:
        app.tasks["film.other"].push_request(id="running", called_directly=False)
        _task_stack.push(app.tasks["film.other"])
        yield
        _task_stack.pop()
        app.tasks["film.other"].pop_request()

    def test_a_producer_tries_as_celery_does(self, app: Celery) -> None:
        assert self.policy(app)["max_retries"] == 3

    @pytest.mark.usefixtures("in_task")
    def test_within_a_task_longer_than_a_failover_takes(self, app: Celery) -> None:
        assert self.policy(app) == WORKER_RETRY_POLICY

    @pytest.mark.usefixtures("in_task")
    def test_what_was_chosen_stays(self, app: Celery) -> None:
        assert self.policy(app, retry_policy={"max_retries": 1})["max_retries"] == 1

    def test_what_the_app_has_chosen_stays_too(self) -> None:
        chosen = make_app(REDIS, task_publish_retry_policy={"max_retries": 2})
        task = chosen.tasks["film.other"]
        task.push_request(id="running", called_directly=False)
        _task_stack.push(task)
        try:
            assert self.policy(chosen)["max_retries"] == 2
        finally:
            _task_stack.pop()
            task.pop_request()


def test_what_a_run_publishes_is_no_copy_of_its_message() -> None:
    app = Celery("film", broker="memory://", set_as_current=False)
    celeray.install(app, Settings())
    message = app.amqp.create_task_message("id", "film.cut", (), {})
    given = {"headers": {"celeray_tag": "t-1.2", "mine": 1}}
    prepared = Publisher(app.amqp).prepare("film.cut", message, given)
    assert "celeray_tag" not in prepared["headers"]
    assert prepared["headers"]["mine"] == 1
