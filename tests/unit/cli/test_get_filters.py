"""Filters of `get tasks`."""

from __future__ import annotations

import pytest

from celeray.cli.get import parse_filters
from celeray.cli.lazy import CliError


def test_filters() -> None:
    assert parse_filters(None) == {}
    assert parse_filters("queue=gpu.x,state=failed,") == {"queue": "gpu.x", "state": "failed"}


@pytest.mark.parametrize("text", ["name=x", "queue", "state=asleep"])
def test_wrong_filters_name_what_is_known(text: str) -> None:
    with pytest.raises(CliError) as caught:
        parse_filters(text)
    assert caught.value.exit_code == 2
    assert text.partition("=")[0] in caught.value.message
