"""What each policy may know beforehand, and that the simulator decides with the bridge's own function."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType

import pytest

from celeray.scheduler import placement
from celeray.scheduler.bridge import dispatcher
from celeray.scheduler.errors import ConfigurationError
from celeray.scheduler.placement.prior import prior_of
from celeray.scheduler.placement.scores import SCORES
from celeray.scheduler.simulation import inflation, online
from celeray.scheduler.simulation.policies import (
    ONE_BY_ONE,
    POLICIES,
    REPORTING_SEEDS,
    TUNING_SEEDS,
    policy_of,
    sample_size,
)
from tests.unit.scheduler.simulation.small import mixed_tasks, task


@pytest.mark.parametrize("user", [dispatcher, inflation, online], ids=lambda module: module.__name__)
def test_bridge_and_simulator_decide_by_one_function(user: ModuleType) -> None:
    assert vars(user)["place"] is placement.place
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(user)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "place"
    ]
    assert len(calls) == 1


def test_every_policy_is_one_of_the_scores() -> None:
    assert set(POLICIES) <= set(SCORES)


def test_reported_seeds_were_never_tuned_with() -> None:
    assert not set(REPORTING_SEEDS) & set(TUNING_SEEDS)


def test_default_knows_a_sample_fgd_the_trace_and_the_others_nothing() -> None:
    tasks = mixed_tasks(400, seed=1)
    known = {name: policy_of(name, tasks, seed=3, order=ONE_BY_ONE).prior for name in POLICIES}
    assert known["fgd"] == prior_of(one.request for one in tasks)
    assert known["default"] is not None
    assert sum(shape.weight for shape in known["default"].shapes) == sample_size(tasks) == 200
    assert [known[name] for name in ("best_fit", "first_fit", "spread")] == [None] * 3


def test_the_sample_goes_by_the_seed() -> None:
    tasks = mixed_tasks(400, seed=1)
    first, again, other = (policy_of("default", tasks, seed=seed, order=ONE_BY_ONE) for seed in (3, 3, 4))
    assert first == again != other


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ConfigurationError, match="policy='luck': expected one of default, "):
        policy_of("luck", [task("a", 4)], seed=1, order=ONE_BY_ONE)
