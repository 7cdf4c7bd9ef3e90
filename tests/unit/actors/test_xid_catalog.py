"""Which XIDs a canary may take back: those that NVIDIA's catalog lets be, or that end with their process."""

from __future__ import annotations

import pytest

from celeray.actors.xid_catalog import APPLICATION_XIDS, CANARY_XIDS, describe, may_try_canary


@pytest.mark.parametrize(
    "xid", [46, 48, 62, 64, 74, 79, 95, 110, 119, 120, 136, 140, 143, 151, 155, 156, 158, 167]
)
def test_what_needs_a_reset_a_reboot_or_is_not_known_stays_out(xid: int) -> None:
    assert not may_try_canary([xid])
    assert not may_try_canary([94, xid]), "the gravest counts"


@pytest.mark.parametrize("xid", [8, 32, 39, 63, 69, 83, 92, 94, 105, 126, 137, 139, 154])
def test_what_ends_with_its_process_may_come_back(xid: int) -> None:
    assert may_try_canary([xid])


def test_an_xid_that_nobody_knows_stays_out() -> None:
    assert not may_try_canary([999])
    assert describe(999) == "XID 999"


def test_errors_of_tasks_keep_no_device_out_at_all() -> None:
    assert not APPLICATION_XIDS & CANARY_XIDS
