"""Observations in a real Redis: added up, faded, bounded, reset, and exchanged by bridges that know nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celeray.scheduler.audit import AuditTrail
from celeray.scheduler.bridge.learned_exchange import LearnedExchange
from celeray.scheduler.bridge.learner import Learner
from celeray.scheduler.errors import NothingLearnedError, OperatorInputError
from celeray.scheduler.keys import Keys
from celeray.scheduler.learned import store as learned_store
from celeray.scheduler.learned.figures import LearnedPolicy, Observed
from celeray.scheduler.learned.histogram import Summary
from celeray.scheduler.learned.store import PERIOD_S, LearnedStore, Noted, Series

pytestmark = pytest.mark.integration
KEYS = Keys(prefix="team:")
NOW = 100 * PERIOD_S + 1000.0
ONE, TWO = Series("film.generate", "NVIDIA A100"), Series("film.generate", "NVIDIA A10")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def store(client: redis.Redis) -> LearnedStore:
    return LearnedStore(client, KEYS)


def noted(*mib: int, asked: int | None = 8192, device: int | None = 40960) -> Noted:
    counts: dict[int, int] = {}
    for one in mib:
        counts[one] = counts.get(one, 0) + 1
    return Noted(counts, asked, device)


def summary(store: LearnedStore, series: Series = ONE, now: float = NOW) -> Summary | None:
    found = store.read(now).get(series)
    return None if found is None else found.observed.summary


def test_bridges_add_up(store: LearnedStore, client: redis.Redis) -> None:
    store.add({ONE: noted(5120, 5120, 1024), TWO: noted(2048, asked=None)}, NOW)
    LearnedStore(client, KEYS).add({ONE: noted(5120, 6144, asked=6000)}, NOW + 1)

    found = store.read(NOW + 2)
    assert set(found) == {ONE, TWO}
    assert found[ONE].seen_at == NOW + 1
    assert found[ONE].observed == Observed("NVIDIA A100", Summary(5, 5120, 6144, 6144), 6000, 40960)
    assert found[TWO].observed == Observed("NVIDIA A10", Summary(1, 2048, 2048, 2048), None, 40960)
    assert all(key.startswith(b"team:celeray:learned") for key in client.scan_iter())


def test_only_what_changed_is_read_again(store: LearnedStore, client: redis.Redis) -> None:
    store.add({ONE: noted(1024), TWO: noted(2048)}, NOW)
    known = store.read(NOW)
    store.add({TWO: noted(2048)}, NOW + 1)
    client.config_resetstat()
    found = store.read(NOW + 1, known)
    calls = client.info("commandstats")
    assert calls["cmdstat_hgetall"]["calls"] == 2, "both periods of the one that changed"
    assert found[ONE] is known[ONE]
    assert found[TWO].observed.summary.count == 2


def test_observations_fade_after_one_to_two_periods(store: LearnedStore, client: redis.Redis) -> None:
    store.add({ONE: noted(9216)}, NOW)
    store.add({ONE: noted(1024)}, NOW + PERIOD_S)
    assert summary(store, now=NOW + PERIOD_S) == Summary(2, 1024, 9216, 9216)
    store.add({ONE: noted(1024)}, NOW + 2 * PERIOD_S)
    assert summary(store, now=NOW + 2 * PERIOD_S) == Summary(2, 1024, 1024, 1024)
    assert summary(store, now=NOW + 5 * PERIOD_S) is None
    store.add({TWO: noted(1024)}, NOW + 5 * PERIOD_S)
    assert set(store.read(NOW + 5 * PERIOD_S)) == {TWO}
    assert client.zcard(KEYS.learned()) == 1
    hashes = [key for key in client.scan_iter() if client.type(key) == b"hash"]
    assert all(0 < client.ttl(key) <= 2 * PERIOD_S for key in hashes)


def test_a_series_that_is_kept_is_read_anew_in_a_new_period(store: LearnedStore) -> None:
    store.add({ONE: noted(9216)}, NOW)
    known = store.read(NOW)
    assert known[ONE].observed.summary.count == 1
    later = store.read(NOW + 2 * PERIOD_S, known)
    assert later == {}


def test_the_number_of_series_is_bounded(store: LearnedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned_store, "SERIES_MAX", 3)
    for number in range(5):
        store.add({Series(f"task-{number}", "A100"): noted(1024)}, NOW + number)
    assert {series.task for series in store.read(NOW + 5)} == {"task-2", "task-3", "task-4"}


def test_a_name_may_hold_anything(store: LearnedStore) -> None:
    odd = Series('film."x"\n["y"]', "GPU é")
    store.add({odd: noted(1024)}, NOW)
    assert set(store.read(NOW)) == {odd}


def test_a_reset_forgets_and_leaves_a_record(store: LearnedStore, client: redis.Redis) -> None:
    other = Series("film.upscale", "NVIDIA A100")
    store.add({ONE: noted(5120), TWO: noted(5120), other: noted(1024)}, NOW)
    assert store.reset(ONE.task, gpu_type="NVIDIA A10", by="anna", why="new driver", now=NOW) == (TWO,)
    assert set(store.read(NOW)) == {ONE, other}
    assert store.reset(ONE.task, by="anna", why="new model", now=NOW + 1) == (ONE,)
    assert set(store.read(NOW)) == {other}
    store.add({ONE: noted(1024)}, NOW + 2)
    assert summary(store) == Summary(1, 1024, 1024, 1024)
    records = AuditTrail(client, KEYS).page(10).records
    assert [(item.by, item.action, item.target, item.why) for item in records] == [
        ("anna", "reset-learned", "learned VRAM of film.generate", "new model"),
        ("anna", "reset-learned", "learned VRAM of film.generate on NVIDIA A10", "new driver"),
    ]


def test_what_can_not_be_reset_is_refused_and_leaves_no_record(
    store: LearnedStore, client: redis.Redis
) -> None:
    store.add({ONE: noted(5120)}, NOW)
    with pytest.raises(NothingLearnedError, match=r"'film\.other'"):
        store.reset("film.other", by="anna", why="w", now=NOW)
    with pytest.raises(NothingLearnedError, match="on 'H100'"):
        store.reset(ONE.task, gpu_type="H100", by="anna", why="w", now=NOW)
    with pytest.raises(OperatorInputError, match="why"):
        store.reset(ONE.task, by="anna", why=" ", now=NOW)
    assert AuditTrail(client, KEYS).page(10).records == ()
    assert summary(store) is not None


class Bridge:
    """The part of a bridge that exchanges."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url, socket_connect_timeout=1)
        self.learner = Learner(LearnedPolicy(headroom_pct=10, runs_min=2))
        self.exchange = LearnedExchange(
            lambda: LearnedStore(self.client, KEYS), self.learner, interval_s=3600.0
        )

    def __enter__(self) -> Bridge:
        self.exchange.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.exchange.stop()
        self.client.close()


def test_what_one_bridge_notes_another_knows(redis_url: str, store: LearnedStore) -> None:
    with Bridge(redis_url) as first:
        first.exchange.offer({ONE: noted(5120)})
        first.exchange.offer({ONE: noted(5120)})
    with Bridge(redis_url) as second:
        (observed,) = second.learner.observed[ONE.task]
        assert observed.summary == Summary(2, 5120, 5120, 5120), "known from its start on"
        assert second.learner.peak_mib(ONE.task) == 5120


def test_without_redis_what_was_noted_is_kept(
    redis_url: str, store: LearnedStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Bridge(redis_url) as bridge:

        def refuse(*_: object, **__: object) -> None:
            raise redis.ConnectionError("away")

        with monkeypatch.context() as patch:
            patch.setattr(bridge.client, "execute_command", refuse)
            patch.setattr(redis.client.Pipeline, "execute", refuse)
            for _ in range(3):
                bridge.exchange.offer({ONE: noted(5120)})
                bridge.exchange.exchange_once(NOW)
        assert caplog.text.count("learned VRAM is not exchanged") == 1
        assert summary(store) is None
        bridge.exchange.offer({ONE: noted(1024)})
        bridge.exchange.exchange_once(NOW)
        assert summary(store) == Summary(4, 5120, 5120, 5120)
