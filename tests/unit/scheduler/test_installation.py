"""`celeray.install` on any app, at any time: what the user set stays, whatever is missing is added."""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.app.amqp import AMQP
from kombu import Exchange, Queue

import celeray
from celeray.scheduler.errors import CelerayWarning, ConfigurationError
from celeray.scheduler.installation import install, settings_of
from celeray.scheduler.settings import Settings
from celeray.scheduler.worker_steps import CheckPromises

REDIS = "redis://127.0.0.1:1/0"
CONTRACT = list(Settings().queues)


def new_app(broker: str = REDIS, **options: Any) -> Celery:
    return Celery("film", broker=broker, set_as_current=False, **options)


def config(**settings: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**settings)


def before(app: Celery, source: Any) -> None:
    app.config_from_object(source)
    celeray.install(app)


def after(app: Celery, source: Any) -> None:
    celeray.install(app)
    app.config_from_object(source)


def after_forced(app: Celery, source: Any) -> None:
    celeray.install(app)
    app.conf.finalize()
    app.config_from_object(source)


def before_and_read(app: Celery, source: Any) -> None:
    app.config_from_object(source)
    app.conf.finalize()
    celeray.install(app)


def update_after(app: Celery, source: Any) -> None:
    celeray.install(app)
    app.conf.update(vars(source))


ORDERS = [before, after, after_forced, before_and_read, update_after]
Order = Callable[[Celery, Any], None]


class TestDefaults:
    def test_all_of_them(self) -> None:
        app = new_app()
        celeray.install(app)
        conf = app.conf
        assert conf.task_acks_late
        assert conf.task_reject_on_worker_lost
        assert conf.task_track_started
        assert conf.task_send_sent_event
        assert conf.worker_send_task_events
        assert conf.worker_prefetch_multiplier == 1
        assert conf.worker_soft_shutdown_timeout == 10
        assert conf.result_expires == 3600
        assert conf.result_chord_expires == 25 * 3600
        assert conf.broker_connection_retry_on_startup
        assert conf.broker_channel_error_retry
        assert conf.broker_connection_max_retries is None
        assert conf.task_default_queue == "cpu.analysis"
        assert conf.task_serializer == "msgpack"
        assert conf.result_serializer == "json"
        assert conf.accept_content == conf.result_accept_content == ["msgpack", "json"]
        assert conf.broker_transport_options == {"priority_steps": list(range(10))}

    @pytest.mark.parametrize("order", ORDERS)
    def test_what_the_user_set_stays(self, order: Order) -> None:
        app = new_app()
        order(
            app, config(result_expires=5, task_track_started=False, task_serializer="json", celeray_window=9)
        )
        assert app.conf.result_expires == 5
        assert app.conf.task_track_started is False
        assert app.conf.task_serializer == "json"
        assert app.conf.task_acks_late
        assert list(app.amqp.queues) == CONTRACT
        if order is not update_after:
            assert settings_of(app).window == 9

    def test_the_old_names_of_settings(self) -> None:
        app = new_app()
        before(app, config(CELERY_TRACK_STARTED=False, CELERY_TASK_RESULT_EXPIRES=5))
        assert app.conf.task_track_started is False
        assert app.conf.result_expires == 5
        assert app.conf.result_chord_expires is None
        assert app.conf.task_acks_late

    def test_chords_wait_as_long_as_letters_are_kept(self) -> None:
        app, other = new_app(), new_app()
        before(app, config(celeray_letter_retention_s=60, celeray_result_ttl_s=7200))
        before(other, config(result_chord_expires=9))
        assert app.conf.result_chord_expires == 7200
        assert other.conf.result_chord_expires == 9

    def test_a_namespace(self) -> None:
        app = new_app()
        app.config_from_object(config(CELERY_RESULT_EXPIRES=5, CELERY_CELERAY_WINDOW=9), namespace="CELERY")
        celeray.install(app)
        assert app.conf.result_expires == 5
        assert app.conf.result_chord_expires is None
        assert app.conf.task_acks_late
        assert settings_of(app).window == 9

    @pytest.mark.parametrize("order", ORDERS)
    def test_transport_options_are_merged(self, order: Order) -> None:
        app = new_app()
        order(app, config(broker_transport_options={"visibility_timeout": 60}))
        options = app.connection_for_read().transport_options
        assert options == {"visibility_timeout": 60, "priority_steps": list(range(10))}

    def test_connections_get_the_steps_even_when_the_options_are_replaced_later(self) -> None:
        app = new_app()
        celeray.install(app)
        app.conf.finalize()
        app.conf.broker_transport_options = {"visibility_timeout": 60}
        assert app.connection_for_write().transport_options["priority_steps"] == list(range(10))

    @pytest.mark.parametrize("broker", ["amqp://127.0.0.1:1//", "memory://"])
    def test_other_brokers_get_no_option_of_redis(self, broker: str) -> None:
        app = new_app(broker)
        celeray.install(app)
        assert app.conf.broker_transport_options == {}
        assert app.connection_for_write().transport_options == {}

    def test_what_the_users_serializer_writes_is_accepted(self) -> None:
        app = new_app(changes={"task_serializer": "yaml", "result_serializer": "yaml"})
        celeray.install(app)
        assert "yaml" in app.conf.accept_content
        assert "yaml" in app.conf.result_accept_content


class TestTasks:
    def test_declared_before_and_bound(self) -> None:
        app = new_app(
            changes={"task_annotations": {"film.annotated": {"acks_late": False, "rate_limit": "3/s"}}}
        )

        @app.task(shared=False, name="film.plain")
        def plain() -> None: ...

        @app.task(shared=False, name="film.early", acks_late=False)
        def early() -> None: ...

        @app.task(shared=False, name="film.annotated")
        def annotated() -> None: ...

        app.finalize()
        assert plain.acks_late is False
        celeray.install(app)
        assert plain.acks_late is True
        assert plain.reject_on_worker_lost is True
        assert plain.track_started is True
        assert plain.serializer == "msgpack"
        assert plain.acks_on_failure is True
        assert early.acks_late is False
        assert (annotated.acks_late, annotated.rate_limit) == (False, "3/s")

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_declared_before_or_after(self, when: str) -> None:
        app = new_app()
        if when == "after":
            celeray.install(app)

        @app.task(shared=False, name="film.plain")
        def plain() -> None: ...

        if when == "before":
            celeray.install(app)
        assert plain.acks_late is True


class TestQueues:
    def test_the_users_queues_are_kept_and_those_missing_added(self) -> None:
        mine = [Queue("mine", routing_key="mine"), Queue("cpu.thumbnail", routing_key="other.key")]
        app = new_app()
        before(app, config(task_queues=mine))
        assert set(app.amqp.queues) == {"mine", *CONTRACT}
        assert app.amqp.queues["cpu.thumbnail"].routing_key == "other.key"
        assert set(app.amqp.queues.consume_from) == {"mine", *CONTRACT}

    def test_another_prefix_and_other_queues(self) -> None:
        app = new_app("amqp://127.0.0.1:1//")
        celeray.install(app, Settings(amqp_exchange="studio"))
        assert app.amqp.queues["cpu.analysis"].exchange.name == "studio"


class TestAgain:
    def test_it_changes_nothing(self) -> None:
        app = new_app()
        first = celeray.install(app)
        app.conf.finalize()
        amqp, maps = app.amqp, len(app.conf.maps)
        steps = {name: set(app.steps[name]) for name in ("consumer", "worker")}
        assert celeray.install(app) == first
        assert app.amqp is amqp
        assert len(app.conf.maps) == maps
        assert {name: set(app.steps[name]) for name in ("consumer", "worker")} == steps

    def test_with_other_settings_they_count(self) -> None:
        app = new_app()
        celeray.install(app)
        app.conf.finalize()
        assert app.conf.result_expires == 3600
        assert celeray.install(app, Settings(result_ttl_s=60)).result_ttl_s == 60
        assert app.conf.result_expires == 60
        assert settings_of(app).result_ttl_s == 60

    def test_given_settings_are_not_read_again(self) -> None:
        app = new_app(changes={"celeray_window": 9})
        celeray.install(app, Settings(window=3))
        assert settings_of(app).window == 3

    def test_by_a_proxy(self) -> None:
        app = Celery("film", broker=REDIS)
        from celery import current_app

        celeray.install(current_app)
        assert app.conf.task_acks_late


class ThirdPartyAMQP(AMQP):
    """Somebody else's."""

    argsrepr_maxsize = 7


class TestAmqpClass:
    @pytest.mark.parametrize("theirs", [ThirdPartyAMQP, f"{__name__}:ThirdPartyAMQP"])
    def test_somebody_elses_is_kept(self, theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(
            __import__("sys").modules, __name__, types.SimpleNamespace(ThirdPartyAMQP=ThirdPartyAMQP)
        )
        app = new_app(amqp=theirs)
        celeray.install(app)
        assert isinstance(app.amqp, ThirdPartyAMQP)
        assert app.amqp.argsrepr_maxsize == 7
        assert list(app.amqp.queues) == CONTRACT

    def test_one_made_before_is_replaced(self) -> None:
        app = new_app()
        assert list(app.amqp.queues) == ["celery"]
        celeray.install(app)
        assert list(app.amqp.queues) == CONTRACT

    def test_a_pickled_app_is_installed_in_the_other_process(self) -> None:
        app = new_app(changes={"celeray_window": 9})
        celeray.install(app)
        app.conf.finalize()
        other = pickle.loads(pickle.dumps(app))
        assert list(other.amqp.queues) == CONTRACT
        assert other.conf.task_acks_late
        assert settings_of(other).window == 9


class TestRefused:
    @pytest.mark.parametrize(
        "setting",
        [
            {"accept_content": ["json", "pickle"]},
            {"accept_content": {"application/x-python-serialize"}},
            {"result_accept_content": ["pickle"]},
            {"task_serializer": "pickle"},
            {"result_serializer": "pickle"},
            {"event_serializer": "pickle"},
        ],
    )
    def test_pickle(self, setting: dict[str, Any]) -> None:
        [name] = setting
        app = new_app()
        app.config_from_object(config(**setting))
        celeray.install(app)
        with pytest.raises(ConfigurationError, match=name):
            app.conf.finalize()
        configured = new_app(changes=dict(setting))
        configured.conf.finalize()
        with pytest.raises(ConfigurationError, match=name):
            celeray.install(configured)

    def test_pickle_that_comes_later_is_refused_by_sender_and_worker(self) -> None:
        app = new_app()
        celeray.install(app)
        app.conf.finalize()
        app.conf.accept_content = ["pickle"]
        with pytest.raises(ConfigurationError, match="accept_content"):
            _ = app.amqp.send_task_message
        with pytest.raises(ConfigurationError, match="accept_content"):
            CheckPromises(types.SimpleNamespace(app=app)).create(types.SimpleNamespace(app=app))

    @pytest.mark.parametrize("order", [before, after])
    def test_a_wrong_setting_of_ours(self, order: Order) -> None:
        app = new_app()
        with pytest.raises(ConfigurationError, match="window"):
            order(app, config(celeray_window=-1)) or app.conf.finalize()
        with pytest.raises(ConfigurationError, match="windoww"):
            install(new_app(changes={"celeray_windoww": 1}))

    def test_an_app_without_it(self) -> None:
        with pytest.raises(ConfigurationError, match="not installed"):
            settings_of(new_app())


class TestWarnings:
    @pytest.mark.parametrize(
        ("setting", "named"),
        [
            ({"task_acks_late": False}, "task_acks_late=False: "),
            ({"task_reject_on_worker_lost": False}, "task_reject_on_worker_lost=False: "),
            ({"worker_prefetch_multiplier": 4}, "worker_prefetch_multiplier=4: "),
            ({"worker_disable_prefetch": True}, "worker_disable_prefetch=True: "),
            (
                {"broker_transport_options": {"priority_steps": [0, 3, 6, 9]}},
                r"priority_steps=\[0, 3, 6, 9\]: ",
            ),
            ({"broker_transport_options": {"ack_emulation": False}}, "ack_emulation=False: "),
            ({"task_default_exchange": "x"}, "task_default_exchange='x': "),
            ({"task_queues": [Queue("q", Exchange("e"), "q")]}, "task_queues.q.exchange='e': "),
            ({"task_queues": {"q": {"exchange": "e"}}}, "task_queues.q.exchange='e': "),
            ({"task_queues": [Queue("q", routing_key="q", expires=5)]}, "task_queues.q.expires=5.0: "),
        ],
    )
    def test_a_broken_promise_is_named_once_and_left(self, setting: dict[str, Any], named: str) -> None:
        app = new_app(changes=dict(setting))
        celeray.install(app)
        with pytest.warns(CelerayWarning, match=named) as seen:
            app.conf.finalize()
        assert len(seen) == 1
        celeray.install(app)
        [name] = setting
        assert app.conf[name] == setting[name] or name == "broker_transport_options"

    def test_a_worker_looks_again(self) -> None:
        app = new_app()
        celeray.install(app)
        app.conf.finalize()
        app.conf.task_acks_late = False
        worker = types.SimpleNamespace(app=app)
        with pytest.warns(CelerayWarning, match="task_acks_late=False"):
            CheckPromises(worker).create(worker)
        CheckPromises(worker).create(worker)

    def test_named_exchanges_are_right_on_amqp(self) -> None:
        app = new_app("amqp://127.0.0.1:1//", changes={"task_queues": [Queue("q", Exchange("e"), "q")]})
        celeray.install(app)
        app.conf.finalize()
