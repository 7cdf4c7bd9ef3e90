"""How single runs become the printed figures."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import parse_arguments
from benchmarks.comparison import Measurements, latency_figures, throughput_figures
from benchmarks.throughput import Drain


def test_the_figure_is_the_median_and_the_ratio_that_of_the_medians() -> None:
    measured = Measurements()
    measured.drains["ignored", "prefork"] = [Drain(1000, 1.0), Drain(1000, 2.0), Drain(1000, 4.0)]
    measured.drains["ignored", "bridge"] = [Drain(4000, 2.0)]
    figures = throughput_figures(measured, "ignored")
    assert (figures["prefork"], figures["bridge"], figures["ratio"]) == (500.0, 2000.0, 4.0)
    assert figures["runs"]["bridge"] == [{"messages": 4000, "seconds": 2.0}]


def test_one_side_alone_has_no_ratio() -> None:
    measured = Measurements()
    measured.drains["stored", "prefork"] = [Drain(1000, 1.0)]
    assert "ratio" not in throughput_figures(measured, "stored")


def test_latency_is_in_milliseconds() -> None:
    figures = latency_figures([0.001 * number for number in range(1, 100)])
    assert figures == {"p50": 50.0, "p99": 99.0, "samples": 99}


def test_an_unknown_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(["--only", "luck"])
    assert ended.value.code == 2
    assert "luck" in capsys.readouterr().err


def test_a_repetition_at_least(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--repetitions", "0"])
    assert "repetitions" in capsys.readouterr().err
