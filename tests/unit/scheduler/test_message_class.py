"""Which messages are of one class."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from celeray.scheduler.message_class import HEADER, message_class, read_class
from celeray.scheduler.model import ResourceRequest

SMALL = ResourceRequest(gpus=1, memory_mib=4096)
LARGE = ResourceRequest(gpus=1, memory_mib=20480)


def test_alike_is_what_has_the_same_executor_class_and_request() -> None:
    assert message_class("film.a", SMALL) == message_class("film.a", ResourceRequest(gpus=1, memory_mib=4096))
    assert (
        len({message_class("film.a", SMALL), message_class("film.a", LARGE), message_class("film.b", SMALL)})
        == 3
    )
    shared = ResourceRequest(gpus=1, memory_mib=4096, executor="diffusion")
    assert message_class("film.a", shared) == message_class("film.b", shared)


def test_each_tenant_has_its_own_and_without_one_it_is_as_ever() -> None:
    assert len({message_class("film.a", SMALL, tenant) for tenant in (None, "a", "b")}) == 3
    assert message_class("film.a", SMALL) == "4c5d74e04511"
    assert len(message_class("film.a", SMALL, "a")) == 12


def test_it_is_short_and_the_same_in_every_process() -> None:
    program = (
        "from celeray.scheduler.message_class import message_class as m;"
        "from celeray.scheduler.model import ResourceRequest as R;"
        "print(m('film.a', R(gpus=1, memory_mib=4096, labels=(('zone', 'b'),))))"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    here = message_class("film.a", ResourceRequest(gpus=1, memory_mib=4096, labels=(("zone", "b"),)))
    assert told == {here}
    assert len(here) == 12


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({HEADER: "c1", "task": "film.a"}, "c1"),
        ({"task": "film.a"}, "film.a"),
        ({HEADER: 5, "task": "film.a"}, "film.a"),
        ({HEADER: None, "task": None}, ""),
        ({HEADER: "c1", "task": "film.a", "tenant": "t"}, "c1"),
        ({"task": "film.a", "tenant": "t"}, "film.a\nt"),
        ({"task": "film.a", "tenant": None}, "film.a"),
        ({"tenant": "t"}, ""),
        ({}, ""),
    ],
)
def test_read_from_headers(headers: dict[str, Any], expected: str) -> None:
    assert read_class(headers) == expected
