"""`celeray dead-letters` shows what a policy sends again and what was sent or discarded, with the attempts."""

from __future__ import annotations

import json
import re

import pytest
import redis
from click.testing import CliRunner, Result

from celeray.cli import main
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.attempts import Attempt, Attempts
from celeray.scheduler.transport.ending import Ending, end_unleased
from tests.integration.cli.test_dead_letters import clean, client

__all__ = ["clean", "client"]

pytestmark = pytest.mark.integration


def leave(client: redis.Redis, tag: str, again_in_s: float | None, exception: str = "ValueError") -> None:
    """A letter of a task that failed twice."""
    attempts = Attempts()
    for number in (1, 2):
        one = Attempt(
            number=1,
            outcome="exception",
            began_at=10.0,
            ended_at=11.0,
            worker="gpu@h",
            node="node-1",
            devices=("GPU-5d1f",),
            vram_asked_mib=1024,
            vram_peak_mib=900,
            exception=exception,
            message=f"failed \x1b[31m{number}",
            traceback="Traceback\n  at the place",
        )
        attempts = attempts.plus(one, retried=number == 1)
    properties = {"delivery_tag": tag, "delivery_info": {"exchange": "", "routing_key": "io.storage"}}
    document = {"body": "", "headers": {"id": f"id-{tag}", "task": "app.save"}, "properties": properties}
    ending = Ending("failed", "why", attempts.packed(), 2, exception, again_in_s)
    end_unleased(client, Keys(), tag, ending, "io.storage", json.dumps(document).encode())


def run(url: str, *args: str) -> Result:
    return CliRunner().invoke(main, ["dead-letters", *args, "--redis-url", url])


def test_by_state_and_exception(client: redis.Redis, redis_url: str) -> None:
    leave(client, "parked", None)
    leave(client, "other", None, "film.errors.BrokenFile")
    leave(client, "waits", 3600)

    assert "waits" not in run(redis_url, "list").output
    shown = run(redis_url, "list", "--state", "scheduled")
    assert "waits" in shown.output
    assert "parked" not in shown.output
    assert "1 in all" in shown.output
    assert re.search(r" in (1h00m|59m)", shown.output)
    found = json.loads(run(redis_url, "list", "--exception", "Broken*", "-o", "json").output)
    assert [letter["id"] for letter in found["letters"]] == ["other"]


def test_the_attempts_are_shown(client: redis.Redis, redis_url: str) -> None:
    leave(client, "waits", 3600)
    text = run(redis_url, "show", "waits").output

    assert "scheduled, " in text
    assert "2 failed attempts, 1 retried by its policy" in text
    assert "exception on gpu@h node-1 GPU-5d1f" in text
    assert "VRAM asked 1024 MiB, peak 900 MiB" in text
    assert "ValueError: failed ?[31m2" in text
    assert "at the place" in text
    found = json.loads(run(redis_url, "show", "waits", "-o", "json").output)
    assert [one["number"] for one in found["history"]] == [1, 2]


def test_what_waits_is_sent_or_discarded_only_when_it_is_named(client: redis.Redis, redis_url: str) -> None:
    leave(client, "one", 3600)
    leave(client, "two", 3600)

    assert run(redis_url, "redrive", "--all", "--yes").exit_code == 0
    assert client.llen("io.storage") == 0
    assert run(redis_url, "discard", "one", "--why", "cancelled").exit_code == 0
    assert run(redis_url, "redrive", "--state", "scheduled", "--yes").exit_code == 0
    assert client.llen("io.storage") == 1
    assert "two" in run(redis_url, "list", "--state", "redriven").output
    assert "one" in run(redis_url, "list", "--state", "discarded").output
    refused = run(redis_url, "redrive", "--state", "redriven", "--yes")
    assert refused.exit_code == 2
