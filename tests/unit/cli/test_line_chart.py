"""The SVG writer."""

from __future__ import annotations

from xml.etree import ElementTree

from celeray.cli.line_chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, svg_of


def points(drawn: ElementTree.Element) -> list[tuple[float, float]]:
    line = next(element for element in drawn.iter() if element.tag.endswith("}polyline"))
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]


def test_lines_lie_in_the_frame_and_grow_upwards() -> None:
    chart = Chart("t", "x", "y", {"a": [(0.0, 1.0), (5.0, 3.0), (10.0, 2.0)]})
    found = points(ElementTree.fromstring(svg_of(chart)))
    xs, ys = [x for x, _ in found], [y for _, y in found]
    assert (min(xs), max(xs)) == (LEFT, WIDTH - RIGHT)
    assert TOP < min(ys) < max(ys) < HEIGHT - BOTTOM
    assert ys[1] < ys[2] < ys[0]


def test_a_flat_line_and_a_single_point_are_drawn() -> None:
    for line in ([(0.0, 2.0), (1.0, 2.0)], [(3.0, 2.0)]):
        assert len(points(ElementTree.fromstring(svg_of(Chart("t", "x", "y", {"a": line}))))) == len(line)


def test_ticks_are_round_numbers_in_the_frame() -> None:
    drawn = ElementTree.fromstring(svg_of(Chart("t", "x", "y", {"a": [(80.0, 81.3), (130.0, 96.4)]})))
    texts = [element.text for element in drawn.iter() if element.tag.endswith("}text")]
    assert texts[:9] == ["85", "90", "95", "80", "90", "100", "110", "120", "130"]


def test_names_are_escaped() -> None:
    drawn = ElementTree.fromstring(svg_of(Chart("a < b & c", "x", "y", {"<p>": [(0.0, 0.0)]})))
    texts = [element.text for element in drawn.iter() if element.tag.endswith("}text")]
    assert {"a < b & c", "<p>"} <= set(texts)


def test_logarithmic_axes_have_round_ticks_and_even_steps() -> None:
    chart = Chart("t", "x", "y", {"a": [(100.0, 5.0), (1_000.0, 50.0), (10_000.0, 500.0)]}, logarithmic=True)
    drawn = ElementTree.fromstring(svg_of(chart))
    texts = [element.text for element in drawn.iter() if element.tag.endswith("}text")]
    assert texts[:13] == [
        "5",
        "10",
        "20",
        "50",
        "100",
        "200",
        "500",
        "100",
        "200",
        "500",
        "1000",
        "2000",
        "5000",
    ]
    (x0, y0), (x1, y1), (x2, y2) = points(drawn)
    assert x1 - x0 == x2 - x1
    assert y0 - y1 == y1 - y2
