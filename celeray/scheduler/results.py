"""Celery's Redis result backends, with fences, and with large results stored gzipped.

Celery's own `result_compression` compresses every result, and then a stored no-op is longer than before. These store
what is longer than `compress_results_above_bytes` the way that setting would, with the method written in front, so
that any Celery from 5.7 on reads it, with or without celeray. They are chosen by the loader's `override_backends`.
"""

from __future__ import annotations

from typing import Any

from celery.backends import redis as stock
from celery.backends.base import compress_payload

from celeray.scheduler.chord_claims import ChordClaimsMixin
from celeray.scheduler.fenced_results import FencingMixin
from celeray.scheduler.installed import installed_on
from celeray.scheduler.letters.chords import ReopeningMixin
from celeray.scheduler.result_batch import BatchingMixin
from celeray.scheduler.result_ttl import ResultTtlMixin
from celeray.scheduler.submission.subscribing import SubscribeLateMixin

METHOD = "gzip"
OVERRIDES = {
    "redis": "celeray.scheduler.results:RedisBackend",
    "rediss": "celeray.scheduler.results:RedisBackend",
    "sentinel": "celeray.scheduler.results:SentinelBackend",
}


class CompressingMixin:
    """Goes before a Celery backend that stores bytes as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        backend: Any = self
        # A backend that was unpickled in another process may belong to an app without celeray there.
        installed = installed_on(backend.app)
        limit = installed.settings.compress_results_above_bytes if installed else 0
        # With decode_responses redis-py gives text, and compressed bytes are none.
        self._compress_above = 0 if backend.connparams.get("decode_responses") else limit

    def encode(self, data: Any) -> Any:
        backend: Any = super()
        payload = backend.encode(data)
        compressed_already = getattr(self, "compression", None)
        if not self._compress_above or compressed_already or len(payload) <= self._compress_above:
            return payload
        return compress_payload(payload, METHOD)


class RedisBackend(
    SubscribeLateMixin,
    ResultTtlMixin,
    BatchingMixin,
    FencingMixin,
    ChordClaimsMixin,
    ReopeningMixin,
    CompressingMixin,
    stock.RedisBackend,
):
    """`redis://` and `rediss://`."""


class SentinelBackend(
    SubscribeLateMixin,
    ResultTtlMixin,
    BatchingMixin,
    FencingMixin,
    ChordClaimsMixin,
    ReopeningMixin,
    CompressingMixin,
    stock.SentinelBackend,
):
    """`sentinel://`."""
