"""Which limits a call is under, and what of it tells calls apart."""

from __future__ import annotations

import json
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celeray.scheduler.errors import LimitError
from celeray.scheduler.limits.declaration import declared
from celeray.scheduler.limits.gates import NO_VALUE, Call, Limit, LimitRules, check, gates, parameters_of


def limit(name: str = "film.render", **option: Any) -> Limit:
    return Limit(name, declared({"concurrency": 1, **option}))


def call(*args: Any, headers: Any = None, parameters: Any = (), **kwargs: Any) -> Call:
    return Call(args, kwargs, headers or {}, parameters)


def value_of(key: str, of: Call) -> Any:
    [gate] = gates([limit(key=key)], of)
    return json.loads(gate.document)["value"]


def test_limits_of_the_setting_come_first_and_all_hold() -> None:
    rules = LimitRules({"film.*": declared({"rate": "10/m"}), "other": declared({"rate": "1/s"})})
    task = SimpleNamespace(limits={"concurrency": 2})
    assert [item.name for item in rules.of_task("film.render", task)] == ["film.*", "film.render"]
    assert [item.name for item in rules.of_task("film.show", None)] == ["film.*"]
    assert rules.of_task("elsewhere", SimpleNamespace()) == ()


def test_the_setting_for_a_tasks_own_name_stands_for_its_option() -> None:
    rules = LimitRules({"film.render": declared({"concurrency": 9})})
    [found] = rules.of_task("film.render", SimpleNamespace(limits={"concurrency": 2}))
    assert found.declaration.concurrency == 9


def test_a_task_with_a_wrong_option_is_refused() -> None:
    with pytest.raises(LimitError, match="concurrency=-1"):
        LimitRules({}).of_task("film.render", SimpleNamespace(limits={"concurrency": -1}))


@pytest.mark.parametrize(
    ("key", "of", "value"),
    [
        ("kwargs.user", call(user="ann"), "ann"),
        ("kwargs.user", call("x", "ann", parameters=("scene", "user")), "ann"),
        ("kwargs.user", call("x", parameters=("scene", "user")), NO_VALUE),
        ("kwargs.user", call(), NO_VALUE),
        ("args.1", call("x", 7), "7"),
        ("args.1", call("x"), NO_VALUE),
        ("headers.limit_key", call(headers={"limit_key": "eu"}), "eu"),
        ("headers.limit_key", call(), NO_VALUE),
        ("kwargs.user", call(user=["no", "text"]), NO_VALUE),
        ("kwargs.user", call(user=uuid.UUID(int=1)), str(uuid.UUID(int=1))),
    ],
)
def test_the_value_of_a_key(key: str, of: Call, value: str) -> None:
    assert value_of(key, of) == value
    if value == NO_VALUE:
        with pytest.raises(LimitError) as refused:
            check([limit(key=key)], of)
        assert refused.value.key == key
    else:
        check([limit(key=key)], of)


def test_parameters_of_bound_and_plain_tasks() -> None:
    def plain(scene: str, user: int, *rest: Any, fast: bool = False) -> None: ...

    class Bound:
        def run(self, scene: str, user: int) -> None: ...

    assert parameters_of(SimpleNamespace(run=plain)) == ("scene", "user")
    assert parameters_of(Bound()) == ("scene", "user")
    assert parameters_of(SimpleNamespace()) == ()


@given(st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=2, max_size=2, unique=True))
def test_gates_of_different_names_or_values_are_different(pairs: list[tuple[str, str]]) -> None:
    ids = [
        gates([limit(name, key="args.0")], call(value))[0].id
        for name, value in pairs
        if not _has_surrogate(name + value)
    ]
    assert len(set(ids)) == len(ids)
    for gate_id in ids:
        assert gate_id.isascii()
        assert ":" not in gate_id


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def test_long_values_are_cut_to_a_digest() -> None:
    one, other = (gates([limit(key="args.0")], call("x" * 5000 + end))[0].id for end in "ab")
    assert one != other
    assert len(one) < 200


def test_the_document_says_what_the_scripts_need() -> None:
    [gate] = gates([Limit("film.*", declared({"rate": "20/s", "concurrency": 3}))], call())
    assert gate.id == "film.*"
    assert json.loads(gate.document) == {
        "name": "film.*",
        "rate": "20/s",
        "interval_s": 0.05,
        "burst": 2,
        "concurrency": 3,
    }
