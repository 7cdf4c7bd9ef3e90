"""Links between worker and broker that stall, break, lie, or carry a byte at a time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.application import LEASE_S
from tests.faults.proxy import Proxy
from tests.faults.rig import Rig
from tests.faults.servers import until

QUICK_TO_NOTICE = {"polling_interval": 0.5, "health_check_interval": 1}
"""A silent link is given up after 1.5 s instead of 26."""
ROUNDS = 3


def workers_behind(rig: Rig, proxy: Proxy, *arguments: str, count: int = 1) -> None:
    """Workers that reach the broker through the proxy; submitters do not."""
    rig.start_workers(count, *arguments, config=rig.config(via=proxy))


FAULT_STALL_CUT = "link stalled for 0.5 s, then reset, idle worker"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_a_stalled_link_that_is_cut(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport)
    proxy = rig.proxy()
    workers_behind(rig, proxy, "-P", "threads", "-c", "2")
    submitter = rig.submitter()
    for _ in range(ROUNDS):
        # The answer to the worker's request, with the message in it, is in the proxy when the link goes.
        proxy.stall()
        submitter.work()
        time.sleep(0.5)
        rig.fault("link cut", crash=False)
        proxy.cut()
        proxy.resume()
        submitter.work()
        until(lambda: proxy.links, "the worker is back")
        rig.drain()
    found = settle(rig, FAULT_STALL_CUT)
    if transport == "kombu":
        assert found.lost


FAULT_CUT = "links reset under load"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_links_cut_under_load(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport)
    proxy = rig.proxy()
    workers_behind(rig, proxy, count=2)
    with rig.load(rate=30):
        for _ in range(6):
            time.sleep(1.0)
            rig.fault("links cut", crash=False)
            proxy.cut()
    settle(rig, FAULT_CUT)


FAULT_REPLY = "links reset in the middle of a reply"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_links_reset_in_the_middle_of_a_reply(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport)
    proxy = rig.proxy()
    workers_behind(rig, proxy, count=2)
    with rig.load(rate=30):
        for count in (1, 7, 40, 300, 900, 2500):
            rig.fault("reset in a reply", crash=False)
            proxy.cut_replies_after(count)
            time.sleep(1.0)
    found = settle(rig, FAULT_REPLY)
    if transport == "kombu":
        assert found.lost


FAULT_HALF_OPEN = "links half-open: what is sent never arrives"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_half_open_links(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport, options={**QUICK_TO_NOTICE, "socket_timeout": 2})
    proxy = rig.proxy()
    workers_behind(rig, proxy, count=2)
    with rig.load(rate=20):
        rig.await_event("start", 20)
        # A worker that can't speak for longer than its lease loses it, as one that crashed.
        rig.fault("links half-open")
        proxy.half_open()
        time.sleep(LEASE_S)
    settle(rig, FAULT_HALF_OPEN)


FAULT_BYTES = "one byte at a time"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_one_byte_at_a_time(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport)
    proxy = rig.proxy()
    workers_behind(rig, proxy, "-P", "threads", "-c", "2")
    with proxy.chunks_of(1):
        submitter = rig.submitter()
        for _ in range(ROUNDS):
            submitter.work()
            submitter.chord()
        settle(rig, FAULT_BYTES)


FAULT_STALL = "link stalled for longer than the lease, then it goes on"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["kombu", "leased"])
def test_a_link_stalled_for_longer_than_the_lease(make_rig: Any, settle: Any, transport: str) -> None:
    rig = make_rig(transport, options={"socket_timeout": 20})
    proxy = rig.proxy()
    workers_behind(rig, proxy)
    rig.worker()
    submitter = rig.submitter()
    for _ in range(8):
        submitter.work(1.5)
    rig.await_event("start", 4)
    rig.fault("link stalled")
    proxy.stall()
    rig.await_event("end", 6, 40, role="work")
    time.sleep(LEASE_S + 1)
    proxy.resume()
    found = settle(rig, FAULT_STALL)
    if transport == "kombu":
        assert found.doubled_count > 0
