"""A message as workers understand it, whoever published it; on kombu's in-memory transport."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.worker import state
from celery.worker.request import Request
from kombu import Exchange, Queue

import celeray
from celeray.scheduler import moving
from celeray.scheduler.errors import FlagError, RequirementError
from celeray.scheduler.forwarding import Forwarder, ForwardStep
from celeray.scheduler.model import ResourceRequest
from celeray.scheduler.receiving import Received, queue_of, receive
from celeray.scheduler.settings import Settings

CPU = ResourceRequest(cpus_milli=1000)
WHOLE = ResourceRequest(gpus=1, exclusive=True)


def make_app(**conf: Any) -> Celery:
    # The in-memory broker is one per process, so each app has queues of its own by a virtual host.
    app = Celery("receiving", broker=f"memory://localhost/{uuid.uuid4()}", set_as_current=False, changes=conf)
    celeray.install(app)

    @app.task(shared=False, name="film.plain")
    def plain(*args: Any, **kwargs: Any) -> None: ...

    @app.task(shared=False, name="film.generate_image")
    def generate_image(*args: Any, **kwargs: Any) -> None: ...

    @app.task(shared=False, name="film.declared", resource_requirements={"vram_gb": 20})
    def declared(*args: Any, **kwargs: Any) -> None: ...

    return app


@pytest.fixture
def app() -> Iterator[Celery]:
    made = make_app()
    yield made
    made.close()


def fetched(app: Celery, queue: str) -> Request:
    channel = app.connection_for_read().default_channel
    message = channel.basic_get(queue)
    message.accept = {"application/json", "application/x-msgpack"}
    request = Request(
        message,
        app=app,
        task=app.tasks[message.headers["task"]],
        on_ack=message.ack_log_error,
        on_reject=message.reject_log_error,
    )
    state.task_reserved(request)
    return request


def received(app: Celery, queue: str) -> Received | RequirementError:
    return receive(fetched(app, queue), Settings())


class TestReceive:
    def test_from_its_own_queue(self, app: Celery) -> None:
        app.tasks["film.plain"].apply_async(priority=8)
        assert received(app, "cpu.analysis") == Received(8, "cpu.analysis", "cpu.analysis", CPU)

    @pytest.mark.parametrize(
        ("name", "own", "request_"),
        [
            ("film.plain", "cpu.analysis", CPU),
            ("film.generate_image", "gpu.generation", WHOLE),
            ("film.declared", "gpu.generation", ResourceRequest(gpus=1, memory_mib=20 * 1024)),
        ],
    )
    def test_from_the_priority_queue(
        self, app: Celery, name: str, own: str, request_: ResourceRequest
    ) -> None:
        app.tasks[name].apply_async(headers={"priority_task": True})
        assert received(app, "priority") == Received(5, "priority", own, request_)

    def test_the_queue_default_counts_where_it_is(self, app: Celery) -> None:
        app.tasks["film.plain"].apply_async(queue="gpu.processing")
        assert received(app, "gpu.processing") == Received(5, "gpu.processing", "gpu.processing", WHOLE)

    def test_twice_is_the_same(self, app: Celery) -> None:
        app.tasks["film.plain"].apply_async(priority=8)
        request = fetched(app, "cpu.analysis")
        assert receive(request, Settings()) == receive(request, Settings())

    @pytest.mark.parametrize("queue", ["cpu.analysis", "priority"])
    def test_a_bad_header_is_returned(self, app: Celery, queue: str) -> None:
        stock = Celery(broker=app.conf.broker_url, set_as_current=False)
        bad = {"resource_requirements": {"vram_gb": -1}}
        stock.send_task("film.plain", queue=queue, headers=bad, ignore_result=True)
        error = received(app, queue)
        assert isinstance(error, RequirementError)
        assert not isinstance(error, FlagError)
        assert (error.key, error.value) == ("vram_gb", -1)

    def test_a_tenant_is_read_and_what_is_no_name_is_nobodys(self, app: Celery) -> None:
        stock = Celery(broker=app.conf.broker_url, set_as_current=False)
        for tenant in ("team-a", None, 7):
            stock.send_task(
                "film.plain", queue="cpu.analysis", headers={"tenant": tenant}, ignore_result=True
            )
        found = [received(app, "cpu.analysis") for _ in range(3)]
        assert [one.tenant for one in found if isinstance(one, Received)] == ["team-a", None, None]


class TestOwnQueue:
    @pytest.mark.parametrize(
        ("routes", "own"),
        [
            ({"film.plain": {"queue": "mine"}}, "mine"),
            ({"film.plain": "mine"}, "mine"),
            ({"film.plain": {"queue": Queue("mine")}}, "mine"),
            ({"film.plain": {"queue": "priority"}}, "cpu.analysis"),
            ({"film.*": {"routing_key": "x"}}, "cpu.analysis"),
            ([lambda name, *_, **__: {"queue": "mine"}], "mine"),
            (None, "cpu.analysis"),
        ],
    )
    def test_the_users_routes_come_first(self, routes: Any, own: str) -> None:
        app = make_app(task_routes=routes)
        assert app.amqp.own_queue("film.plain", (), {}, {}, app.tasks["film.plain"]) == own


def test_a_queue_behind_a_topic_is_found_by_its_binding() -> None:
    app = make_app(task_queues=[Queue("mine", Exchange("films", "topic"), routing_key="film.#")])
    request = type(
        "Message", (), {"app": app, "delivery_info": {"exchange": "films", "routing_key": "film.#"}}
    )()
    assert queue_of(request) == "mine"
    request.delivery_info = {"exchange": "films", "routing_key": "unbound"}
    assert queue_of(request) == "unbound"


class TestForwarder:
    def forward(self, app: Celery, request: Request, *, on_ray: bool) -> list[Request]:
        handled: list[Request] = []
        Forwarder(Settings(), handled.append, on_ray=on_ray)(request)
        return handled

    @pytest.mark.parametrize(
        ("name", "queue"), [("film.plain", "cpu.analysis"), ("film.declared", "gpu.generation")]
    )
    @pytest.mark.parametrize("on_ray", [True, False])
    def test_on_any_other_queue_all_is_handled(
        self, app: Celery, name: str, queue: str, on_ray: bool
    ) -> None:
        app.tasks[name].apply_async(priority=7)
        request = fetched(app, queue)
        assert self.forward(app, request, on_ray=on_ray) == [request]
        assert request.request_dict["delivery_info"]["priority"] == 7

    @pytest.mark.parametrize(
        ("name", "needs_ray", "own"),
        [("film.plain", False, "cpu.analysis"), ("film.generate_image", True, "gpu.generation")],
    )
    @pytest.mark.parametrize("on_ray", [True, False])
    def test_on_the_priority_queue_each_takes_its_own(
        self, app: Celery, name: str, needs_ray: bool, own: str, on_ray: bool
    ) -> None:
        app.tasks[name].apply_async(headers={"priority_task": True}, priority=4)
        request = fetched(app, "priority")
        handled = self.forward(app, request, on_ray=on_ray)
        if on_ray == needs_ray:
            assert handled == [request]
            return
        assert handled == []
        assert request.acknowledged
        assert request not in state.reserved_requests
        moved = fetched(app, own)
        assert moved.id == request.id
        assert receive(moved, Settings()) == Received(10, own, own, WHOLE if needs_ray else CPU)

    def test_a_plain_worker_says_once_that_a_task_gets_no_device(
        self, app: Celery, caplog: pytest.LogCaptureFixture
    ) -> None:
        handled: list[Request] = []
        forwarder = Forwarder(Settings(), handled.append, on_ray=False)
        for _ in range(2):
            app.tasks["film.declared"].apply_async(queue="cpu.analysis")
            forwarder(fetched(app, "cpu.analysis"))
        assert len(handled) == 2
        assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
            "Task film.declared asks for gpu=1 but came on queue cpu.analysis: it runs on this worker without a device"
        ]

    @pytest.mark.parametrize("acks_late", [True, False])
    def test_a_plain_worker_ends_what_it_can_not_understand(self, app: Celery, acks_late: bool) -> None:
        app.tasks["film.plain"].acks_late = acks_late
        stock = Celery(broker=app.conf.broker_url, set_as_current=False)
        bad = {"resource_requirements": {"vram_gb": -1}}
        stock.send_task("film.plain", queue="cpu.analysis", headers=bad, ignore_result=True)
        request = fetched(app, "cpu.analysis")
        assert self.forward(app, request, on_ray=False) == []
        assert request.acknowledged
        assert request not in state.reserved_requests

    def test_the_bridge_leaves_that_to_its_pool(self, app: Celery) -> None:
        stock = Celery(broker=app.conf.broker_url, set_as_current=False)
        bad = {"resource_requirements": {"vram_gb": -1}}
        stock.send_task("film.plain", queue="cpu.analysis", headers=bad, ignore_result=True)
        request = fetched(app, "cpu.analysis")
        assert self.forward(app, request, on_ray=True) == [request]

    def test_the_step_stands_before_the_consumers_own(self, app: Celery) -> None:
        handled: list[Request] = []
        consumer = type("Consumer", (), {"app": app, "pool": None})()
        consumer.on_task_request = handled.append
        ForwardStep(consumer).create(consumer)
        app.tasks["film.plain"].apply_async()
        request = fetched(app, "cpu.analysis")
        consumer.on_task_request(request)
        assert handled == [request]


def test_without_redis_a_message_is_given_back_by_rejecting_it(app: Celery) -> None:
    app.tasks["film.plain"].apply_async((1,))
    request = fetched(app, "cpu.analysis")
    assert moving.give_back(request)
    assert request.acknowledged
    assert request not in state.reserved_requests
    assert fetched(app, "cpu.analysis").id == request.id


def test_a_compressed_message_is_moved_readable(app: Celery) -> None:
    app.tasks["film.plain"].apply_async(("x" * 1000,), compression="gzip", headers={"trace": "t"})
    request = fetched(app, "cpu.analysis")
    assert moving.move(request, "cpu.thumbnail", 10)
    moved = fetched(app, "cpu.thumbnail")
    assert moved.args == ["x" * 1000]
    assert moved.message.headers["trace"] == "t"
    assert moved.correlation_id == request.correlation_id
