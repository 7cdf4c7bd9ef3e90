"""What is left of a message, however its run ends on the bridge; and who pays for a task that kills its executor."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from click.testing import CliRunner

from celeray.cli import main
from celeray.scheduler.embedded_redis import EmbeddedRedis
from tests.integration.outcome_rows import (
    BRIDGE,
    Row,
    Site,
    check,
    check_nothing_left,
    check_terminated,
    rows_of,
    send_all,
)

from .live import LiveBridge, application, until

pytestmark = [pytest.mark.integration, pytest.mark.unmeasured]

MODULE = "tests.apps.endings"


@pytest.fixture(scope="module")
def site(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    url = f"redis://127.0.0.1:{redis_server.port}/6"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        bridge = LiveBridge(
            url, tmp_path_factory.mktemp("ends"), module=MODULE, gpus="1x24GiB", name="ends"
        ).start()
        yield Site(application(url, MODULE), client, "gpu.processing", BRIDGE, bridge.node)
        bridge.stop()


@pytest.fixture(scope="module")
def sent(site: Site) -> dict[Row, str]:
    return send_all(site)


@pytest.mark.parametrize("row", rows_of(BRIDGE), ids=str)
def test_row(site: Site, sent: dict[Row, str], row: Row) -> None:
    letter = check(row, site, sent[row])

    for attempt in letter.history if letter else ():
        if attempt.began_at is not None:
            assert attempt.devices
            assert attempt.node
            assert attempt.vram_asked_mib == 1024


def test_one_is_described_with_its_run_and_its_attempts(site: Site, sent: dict[Row, str]) -> None:
    row = next(row for row in sent if str(row) == "exception: its policy gives up")
    check(row, site, sent[row])
    way = ["--redis-url", site.app.conf.broker_url, "-o", "json"]

    answer = CliRunner().invoke(main, ["describe", "task", sent[row], *way])

    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.output)
    assert (found["state"], found["result"]["exception"]) == ("failed", "ValueError")
    assert found["run"]["vram_mib"] == 1024
    (letter,) = found["letters"]
    assert [one["devices"] for one in letter["history"]] == [found["run"]["device_uuids"]] * 3


def test_terminated_in_its_run(site: Site) -> None:
    check_terminated(site)


def test_nothing_is_left_of_them(site: Site, sent: dict[Row, str]) -> None:
    assert sent
    check_nothing_left(site)


@pytest.mark.slow
def test_a_poison_task_beside_500_good_ones(site: Site) -> None:
    good = [site.app.tasks["ends.well"].apply_async(queue=site.queue) for _ in range(250)]
    poison = site.app.tasks["ends.poisons"].apply_async(queue=site.queue)
    good += [site.app.tasks["ends.well"].apply_async(queue=site.queue) for _ in range(250)]

    assert [result.get(timeout=60) for result in good] == ["well"] * 500
    letter = until(lambda: site.letter_of(poison.id), "it is parked")
    assert (letter.reason, letter.begun) == ("poison", 3)
    check_nothing_left(site)
