"""A submitter whose connection breaks, and which publishes again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.servers import Broker, info, until

FAULT = "publish retried after a reset in the middle of its reply"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_a_publish_whose_reply_is_lost(make_rig: Any, settle: Any, tmp_path: Any, transport: str) -> None:
    rig = make_rig(transport, settings={"durable_replicas": 1})
    replica = Broker(tmp_path / "replica", "--replicaof", "127.0.0.1", str(rig.broker.server.port))
    rig.also(replica)
    until(lambda: info(replica).get("master_link_status") == "up", "the replica has the master's data")
    proxy = rig.proxy()
    rig.worker("-P", "threads", "-c", "2")
    submitter = rig.submitter(config=rig.config(via=proxy), task_publish_retry=True)
    submitter.work()
    for _ in range(3):
        rig.fault("reset in a reply", crash=False)
        # The message is on its list, and the submitter does not hear of it.
        proxy.cut_replies_after(1)
        submitter.work()
    found = settle(rig, FAULT)
    if transport == "kombu":
        assert found.doubled.get("message")
