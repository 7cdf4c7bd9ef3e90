"""What a request becomes by what was observed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.learned.figures import (
    QUANTUM_MIB,
    LearnedPolicy,
    Need,
    Observed,
    figure,
    is_oversize,
    largest_need,
    need_of,
    with_figure,
)
from celeray.scheduler.learned.histogram import Summary
from celeray.scheduler.model import Basis, ResourceRequest

POLICY = LearnedPolicy(headroom_pct=10, runs_min=10)
MIB = st.integers(1, 200 * 1024)


def seen(p95: int, *, runs: int = 10, gpu_type: str = "NVIDIA A100", device: int | None = 40960) -> Observed:
    return Observed(gpu_type, Summary(runs, p95, p95, p95), 8192, device)


def asked(**fields: object) -> ResourceRequest:
    return ResourceRequest(gpus=1, memory_mib=8192, basis=Basis.LEARNED, **fields)  # type: ignore[arg-type]


def test_p95_and_headroom_once_enough_was_seen() -> None:
    assert need_of(seen(5120, runs=9), POLICY) is None
    assert need_of(seen(5120), POLICY) == Need(5632, 40960)
    assert need_of(seen(5120), LearnedPolicy(headroom_pct=0, runs_min=1)) == Need(5120, 40960)


def test_what_fitted_on_a_device_is_not_asked_of_it_in_excess() -> None:
    need = need_of(seen(23 * 1024, device=24576), POLICY)
    assert need == Need(24576, 24576)
    assert figure(need) == 24576
    assert figure(Need(24500, 24500)) == 24500, "rounding does not go beyond it either"
    assert need_of(seen(5120, device=None), POLICY) == Need(5632, None)


def test_the_model_that_needs_the_most_decides() -> None:
    observed = [seen(5120), seen(6144, gpu_type="NVIDIA A10", device=24576)]
    both = {"NVIDIA A100", "NVIDIA A10"}
    assert largest_need(asked(), observed, both, POLICY) == need_of(observed[1], POLICY)
    only = asked(gpu_types=("A100",))
    assert largest_need(only, observed, both, POLICY) == need_of(observed[0], POLICY)
    assert largest_need(asked(gpu_types=("H100",)), observed, both, POLICY) is None


def test_models_that_the_cluster_has_no_more_count_only_where_there_is_no_other() -> None:
    observed = [seen(5120), seen(6144, gpu_type="NVIDIA A10")]
    assert largest_need(asked(), observed, {"NVIDIA A100"}, POLICY) == Need(5632, 40960)
    assert largest_need(asked(), observed, (), POLICY) == need_of(observed[1], POLICY), "nothing is read yet"


def test_a_model_that_was_not_seen_enough_takes_the_need_of_the_others() -> None:
    observed = [seen(5120), seen(20000, runs=3, gpu_type="NVIDIA A10")]
    assert largest_need(asked(), observed, {"NVIDIA A100", "NVIDIA A10"}, POLICY) == Need(5632, 40960)


def test_the_users_bound_holds() -> None:
    assert with_figure(asked(), 9000).memory_mib == 9000, "more than was declared"
    assert with_figure(asked(memory_mib_max=8500), 9000).memory_mib == 8500
    assert with_figure(asked(), 5632) == asked().__class__(gpus=1, memory_mib=5632, basis=Basis.LEARNED)


def test_a_figure_stays_until_it_is_too_small_or_much_too_large() -> None:
    assert figure(Need(5633, None)) == 5888
    assert figure(Need(5700, None), 5888) == 5888
    assert figure(Need(5400, None), 5888) == 5888, "5632 would be 4 % less"
    assert figure(Need(5100, None), 5888) == 5120
    assert figure(Need(5889, None), 5888) == 6144


@given(MIB, st.none() | MIB, st.none() | st.integers(200 * 1024, 400 * 1024))
def test_a_figure_is_enough_and_hardly_more(need: int, previous: int | None, bound: int | None) -> None:
    found = figure(Need(need, bound), previous)
    assert need <= found
    assert found <= max(need + QUANTUM_MIB - 1, (need + QUANTUM_MIB - 1) * 10 // 9)
    assert bound is None or previous is not None or found <= bound


@given(st.lists(st.integers(5 * 1024, 200 * 1024), min_size=2, max_size=50))
def test_figures_of_needs_that_move_a_little_do_not_move(needs: list[int]) -> None:
    top = max(needs)
    near = [max(need, top - top // 20) for need in needs]
    found = figure(Need(top, None))
    for need in near:
        assert (found := figure(Need(need, None), found)) == figure(Need(top, None))


@pytest.mark.parametrize(
    ("reserved", "oversize"), [(8192, True), (7040, False), (5632, False), (4096, False)]
)
def test_an_executor_is_oversize_from_a_quarter_on(reserved: int, oversize: bool) -> None:
    assert is_oversize(reserved, 5632) is oversize
