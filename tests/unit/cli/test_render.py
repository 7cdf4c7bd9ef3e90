"""Tables: plain in a pipe, with colour on a terminal only."""

from __future__ import annotations

import sys

import pytest

from celeray.cli.render import gib, known, print_table, seconds, styled


def test_columns_are_aligned_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "n"), [("gpu.generation", "1"), ("dlq", "20")], empty="none")
    assert capsys.readouterr().out == "NAME            N\ngpu.generation  1\ndlq             20\n"


def test_nothing_to_show_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [], empty="no queues")
    assert capsys.readouterr().out == "no queues\n"


def test_a_terminal_gets_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("name", "state"), [("t1", "failed")], empty="none")
    assert "failed" in capsys.readouterr().out


def test_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    assert styled("ok") == "ok"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert styled("ok") != "ok"
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("ok") == "ok"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0123, "12ms"), (1.26, "1.3s"), (61, "1m01s"), (3725, "1h02m")],
)
def test_seconds(value: float | None, text: str) -> None:
    assert seconds(value) == text


def test_units() -> None:
    assert (gib(12288), gib(None), known(37, "%"), known(None, "%")) == ("12.0", "-", "37%", "-")
