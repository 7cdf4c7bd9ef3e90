"""What closeness is called, and its matrix."""

from __future__ import annotations

from celeray.scheduler.links import matrix_of, names_of

PAIRS = (("a", "b", 400), ("a", "c", 50), ("b", "d", 10))


def test_the_matrix_has_the_order_of_the_devices_whatever_the_pairs_have() -> None:
    assert matrix_of(["c", "a", "b"], PAIRS) == ((0, 50, 0), (50, 0, 400), (0, 400, 0))


def test_nothing_known_of_the_devices_is_no_matrix() -> None:
    assert matrix_of(["c", "d"], PAIRS) == ()
    assert matrix_of([], PAIRS) == ()
    assert matrix_of(["a", "b"], ()) == ()


def test_names_are_those_of_nvidia_smi() -> None:
    pairs = [
        ("a", other, value) for other, value in zip("bcdefgh", (10, 20, 30, 40, 50, 60, 1800), strict=True)
    ]

    rows = names_of(matrix_of(list("abcdefghi"), pairs))

    assert rows[0] == ("X", "SYS", "NODE", "PHB", "PXB", "PIX", "PSB", "NV18", "-")
    assert rows[1][:3] == ("SYS", "X", "-")
    assert names_of(()) == ()
