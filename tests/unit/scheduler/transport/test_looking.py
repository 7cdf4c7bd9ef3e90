"""How far claims look past limited classes."""

from __future__ import annotations

from celeray.scheduler.transport.claiming import SKIPPED_MOST
from celeray.scheduler.transport.looking import DEEPER, DEEPEST, LOOK_PAUSE_MOST_S, LOOK_PAUSE_S, Looking


def test_where_a_usual_look_sees_all_there_is_no_deeper_one() -> None:
    looking = Looking()
    looking.looked(0.0, SKIPPED_MOST, skipped=900, cut=False, found=True)
    assert looking.deep_at is None
    assert looking.depth(1.0) == SKIPPED_MOST
    assert looking.looks_again_at == 900 * LOOK_PAUSE_S


def test_what_is_cut_is_looked_at_deeper_and_deeper_until_something_is_found() -> None:
    looking, now, depths = Looking(), 0.0, []
    looking.looked(now, SKIPPED_MOST, skipped=SKIPPED_MOST, cut=True, found=False)
    while looking.deep_at is not None and len(depths) < 9:
        now = max(now, looking.deep_at)
        depths.append(looking.depth(now))
        looking.looked(now, depths[-1], skipped=depths[-1], cut=True, found=False)
    assert depths == [DEEPER * SKIPPED_MOST, DEEPEST]
    looking.looked(now, SKIPPED_MOST, skipped=SKIPPED_MOST, cut=True, found=False)
    assert looking.deep_at == now + DEEPEST * LOOK_PAUSE_S, "a usual look asks for it again, after the pause"


def test_between_deep_looks_there_is_a_pause_in_which_usual_ones_go_on() -> None:
    looking = Looking()
    looking.looked(0.0, SKIPPED_MOST, skipped=SKIPPED_MOST, cut=True, found=False)
    deep = looking.depth(0.05)
    looking.looked(0.05, deep, skipped=deep, cut=True, found=True)
    pause = deep * LOOK_PAUSE_S
    assert looking.looks_again_at == 0.05 + LOOK_PAUSE_MOST_S
    assert looking.depth(0.05 + pause / 2) == SKIPPED_MOST
    assert looking.depth(0.05 + pause + 0.01) == deep, "as deep as something was found"


def test_when_all_was_seen_usual_looks_are_enough() -> None:
    looking = Looking()
    looking.looked(0.0, SKIPPED_MOST, skipped=SKIPPED_MOST, cut=True, found=False)
    looking.looked(0.1, looking.depth(0.1), skipped=3_000, cut=False, found=False)
    assert looking.deep_at is None
    assert looking.depth(9.0) == SKIPPED_MOST
