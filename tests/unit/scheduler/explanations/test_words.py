"""Each reason has one sentence, and each missing forecast."""

from __future__ import annotations

from pathlib import Path

import pytest

from celeray.scheduler.explanations import words
from celeray.scheduler.model import Reason
from celeray.scheduler.placement.forecasting import NoForecast

REST = (Path(__file__).parents[4] / "docs" / "rest.md").read_text()


def test_one_sentence_each() -> None:
    assert set(words.REASONS) == set(Reason)
    assert set(words.NO_FORECAST) == set(NoForecast)
    for said in (*words.REASONS.values(), *words.NO_FORECAST.values(), words.HAS_ROOM):
        assert said.endswith(".")
        assert said.count(". ") == 0, "one sentence"
        assert len(said) <= 120, "it stands in a table"
    assert len(set(words.REASONS.values())) == len(Reason)
    assert words.of_reason(None) == words.HAS_ROOM
    assert words.of_reason(Reason.VRAM) == words.REASONS[Reason.VRAM]


def test_every_missing_forecast_is_documented() -> None:
    table = REST.partition("\n## Explain\n")[2].partition("\n## Errors\n")[0]
    for why in NoForecast:
        assert f"| `{why}` |" in table


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.25, "0.25 s"),
        (9.0, "9 s"),
        (59.96, "60 s"),
        (60.0, "1 min 00 s"),
        (200.0, "3 min 20 s"),
        (7500.0, "2 h 05 min"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


def test_a_start_says_what_it_rests_on() -> None:
    assert words.of_start(0.0, known=True) == "It is expected to start now."
    assert words.of_start(9.0, known=True) == "It is expected to start in about 9 s."
    assert "`unknown_run_s`" in words.of_start(3600.0, known=False)
