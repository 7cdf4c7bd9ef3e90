"""A redrive that asks for more: by filter, over each message's own request; a dry run says what would change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celeray.scheduler.audit import AuditTrail
from celeray.scheduler.errors import RequirementError
from celeray.scheduler.keys import Keys
from celeray.scheduler.letters.redrive import EDITS_SHOWN, Redrive, RedriveTerms, ShownEdit
from celeray.scheduler.letters.selecting import Selection
from celeray.scheduler.letters.store import LetterFilter
from celeray.scheduler.message_class import message_class
from celeray.scheduler.requests import effective_request
from celeray.scheduler.routing import GPU_QUEUE_DEFAULT
from tests.integration.scheduler.transport.conftest import SEPARATOR, Broker

LIST = f"gpu.generation{SEPARATOR}5"
OUT_OF_MEMORY = Selection(filter=LetterFilter(reason="vram"))
LARGER = {"vram_gb": 16}


def asking(vram_gb: Any, **more: Any) -> dict[str, Any]:
    return {
        "resource_requirements": {"gpu": True, "vram_gb": vram_gb, **more},
        "celeray_class": "0123456789ab",
    }


def test_from_12_to_16_gib_in_bulk(redrive: Redrive, park: Any, broker: Broker) -> None:
    for number in range(EDITS_SHOWN + 150):
        park(f"{number:03}", queue="gpu.generation", reason="vram", headers=asking(12), at=float(1 + number))
    park("other", reason="poison")
    dry = redrive.run(OUT_OF_MEMORY, RedriveTerms(dry_run=True, request=LARGER), by="ops")
    assert (dry.matched, dry.sent, dry.skipped, len(dry.edits)) == (250, 250, 0, EDITS_SHOWN)
    before = {"gpu": True, "vram_gb": 12}
    assert dry.edits[0] == ShownEdit(id="000", before=before, after={"gpu": True, "vram_gb": 16})
    assert broker.client.llen(LIST) == 0
    done = redrive.run(OUT_OF_MEMORY, RedriveTerms(request=LARGER), by="ops")
    assert (done.sent, done.edits) == (250, dry.edits)
    sent = broker.bodies(LIST)
    wanted = effective_request({"gpu": True, "vram_gb": 16}, None, GPU_QUEUE_DEFAULT)
    for message in sent:
        assert message["headers"]["resource_requirements"] == {"gpu": True, "vram_gb": 16}
        assert message["headers"]["celeray_class"] == message_class("app.work", wanted)
        assert (message["headers"]["empty"], message["headers"]["large"]) == ([], 2**70)
    target = AuditTrail(broker.client, Keys()).page(10).records[0].target
    assert target.endswith("dead letters by filter: reason=vram, asking vram_gb=16")


def test_everything_else_is_the_same_bytes(redrive: Redrive, park: Any, broker: Broker) -> None:
    raw = park("a", queue="gpu.generation", headers=asking(12))
    assert redrive.run(Selection(ids=("a",)), RedriveTerms(request=LARGER), by="ops").sent == 1
    (sent,) = broker.client.lrange(LIST, 0, -1)
    tag, classed = (
        json.loads(sent)["properties"]["delivery_tag"],
        json.loads(sent)["headers"]["celeray_class"],
    )
    assert sent == (
        raw.replace(b'"delivery_tag": "a"', b'"delivery_tag": "%s"' % tag.encode())
        .replace(b'"vram_gb": 12', b'"vram_gb": 16')
        .replace(b"0123456789ab", classed.encode())
    )


def test_a_letter_that_can_not_be_asked_so_is_left(redrive: Redrive, park: Any, broker: Broker) -> None:
    park("a", queue="gpu.generation", headers=asking(12))
    park("b", queue="gpu.generation", headers=asking(8, vram_gb_max=12))
    park("c", queue="gpu.generation", headers={"resource_requirements": "much"})
    for dry_run in (True, False):
        terms = RedriveTerms(request=LARGER, dry_run=dry_run)
        done = redrive.run(Selection(all=True), terms, by="ops")
        assert (done.sent, done.skipped_by_reason) == (1, {"request": 2})
        why = {item.id: item.reason for item in done.skipped_letters}
        assert why["b"] == "request: resource_requirements: vram_gb_max=12: at least vram_gb, which is 16"
        assert "a mapping of keys to values" in why["c"]
    assert len(broker.parked()) == 2


@pytest.mark.parametrize(("request_", "key"), [({"vram_gb": -1}, "vram_gb"), ({"vram": 16}, "vram")])
def test_a_wrong_request_sends_nothing(
    redrive: Redrive, park: Any, request_: dict[str, Any], key: str
) -> None:
    park("a")
    with pytest.raises(RequirementError) as raised:
        redrive.run(Selection(all=True), RedriveTerms(request=request_), by="ops")
    assert raised.value.key == key


def test_with_another_queue_its_default_counts(redrive: Redrive, park: Any, broker: Broker) -> None:
    park("a", queue="cpu.analysis", headers={"celeray_priority": 5})
    terms = RedriveTerms(request={"cpus": 2}, queue="gpu.processing", priority=10)
    assert redrive.run(Selection(all=True), terms, by="ops").sent == 1
    (sent,) = broker.bodies("gpu.processing")
    wanted = effective_request({"cpus": 2}, None, GPU_QUEUE_DEFAULT)
    assert sent["headers"]["celeray_class"] == message_class("app.work", wanted)
    assert (sent["headers"]["celeray_priority"], sent["properties"]["priority"]) == (10, 0)
