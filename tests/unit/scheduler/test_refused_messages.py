"""Why a message is refused, what its record says, and whose messages are left to Celery."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed
from kombu.message import Message
from kombu.serialization import loads

from celeray.scheduler.outcomes import Outcome
from celeray.scheduler.refused_messages import (
    DETAIL_MOST,
    Refusals,
    body_fault,
    detail_of,
    is_leased,
    outcome_of_decoding,
)


@pytest.mark.parametrize(
    ("body", "content_type", "encoding", "outcome"),
    [
        (b"{not json", "application/json", "utf-8", Outcome.UNDECODABLE),
        (b"\xff", "text/plain", "utf-8", Outcome.UNDECODABLE),
        (b"x", "application/data", "klingon", Outcome.CONTENT_TYPE),
        (b"x", "application/x-nothing", "utf-8", Outcome.CONTENT_TYPE),
    ],
)
def test_what_kombu_raises_tells_whether_another_worker_could_decode_it(
    body: bytes, content_type: str, encoding: str, outcome: Outcome
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - kombu's, of several classes
        loads(body, content_type, encoding, accept={"application/json", "text/plain"})

    assert outcome_of_decoding(caught.value) is outcome


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ContentDisallowed("pickle"), Outcome.CONTENT_TYPE),
        (KeyError("application/x-nothing"), Outcome.CONTENT_TYPE),
        (zlib.error("no header"), Outcome.UNDECODABLE),
    ],
)
def test_so_do_the_errors_of_compression(error: Exception, outcome: Outcome) -> None:
    assert outcome_of_decoding(error) is outcome


@pytest.mark.parametrize("payload", [[[], {}, {}], ((), {}, None), [[], {}, []], {"args": []}])
def test_bodies_that_celery_takes_are_not_refused(payload: Any) -> None:
    assert body_fault(payload) is None


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (None, "a NoneType"),
        ("args", "a str"),
        ([[], {}], "a list"),
        ([[], [], {}], "kwargs"),
        ([[], {}, [1]], "embed"),
        ({"kwargs": {}}, "without args"),
        ({"args": [], "kwargs": []}, "kwargs"),
    ],
)
def test_bodies_that_it_does_not_take_are_named(payload: Any, fault: str) -> None:
    assert fault in str(body_fault(payload))


def test_the_detail_is_bounded_and_can_be_written() -> None:
    detail = detail_of(ValueError("\ud800" + "x" * 10_000), "front@host")

    assert detail.startswith("ValueError: \\ud800x")
    assert detail.endswith("... [front@host]")
    assert len(detail.encode()) < DETAIL_MOST + 100


def test_an_exception_without_a_text_is_no_obstacle() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert detail_of(Mute(), "w") == "Mute: <no text> [w]"


class OtherChannel:
    """Of another transport."""

    no_ack_consumers = None

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def basic_ack(self, tag: str, multiple: bool = False) -> None:
        self.calls.append(("ack", tag))

    def basic_reject(self, tag: str, requeue: bool = False) -> None:
        self.calls.append(("reject", tag))


class CeleryConsumer:
    """What Refusals wraps."""

    hostname = "w@host"
    strategies: dict[str, Any] = {}

    def create_task_handler(self) -> Any:
        def handle(message: Message) -> None:
            raise KeyError("id")

        return handle

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        message.ack()

    def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
        message.reject()

    def on_unknown_message(self, body: Any, message: Message) -> None:
        message.reject()

    def on_unknown_task(self, body: Any, message: Message, exc: Exception) -> None:
        message.reject()


def test_messages_of_other_transports_are_left_to_celery() -> None:
    channel, consumer = OtherChannel(), CeleryConsumer()
    Refusals(consumer).attach()
    message = Message(channel=channel, delivery_tag="t")

    assert not is_leased(message)
    consumer.on_decode_error(message, ValueError())
    consumer.on_invalid_task(None, Message(channel=channel, delivery_tag="u"), InvalidTaskError())
    assert channel.calls == [("ack", "t"), ("reject", "u")]
    with pytest.raises(KeyError):
        consumer.create_task_handler()(Message(channel=channel, delivery_tag="v"))
