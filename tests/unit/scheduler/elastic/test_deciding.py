"""How many nodes are wanted, and which go back."""

from __future__ import annotations

from celeray.scheduler.elastic.deciding import Ask, Decision, NodeUse, decide

from .samples import START_S, executor, kind, node, situation, task, tasks


def wanted(decision: Decision, name: str = "a10") -> int:
    return decision.wanted[name]


def test_nothing_waits_and_nothing_is_wanted() -> None:
    assert decide(situation()) == Decision({"a10": 0})


def test_a_task_that_only_a_node_of_the_type_could_hold_asks_for_one() -> None:
    assert wanted(decide(situation(tasks(1)))) == 1


def test_a_task_that_no_type_could_hold_asks_for_none() -> None:
    assert wanted(decide(situation(tasks(1, gib=80)))) == 0


def test_six_tasks_that_last_fit_on_one_node_and_the_seventh_asks_for_another() -> None:
    long = START_S * 10

    assert wanted(decide(situation(tasks(6, run_s=long)))) == 1
    assert wanted(decide(situation(tasks(7, run_s=long)))) == 2


def test_runs_of_unknown_length_are_taken_to_last() -> None:
    assert wanted(decide(situation(tasks(7, run_s=None)))) == 2


def test_a_burst_that_is_over_before_a_node_comes_asks_for_none() -> None:
    # 60 tasks of 10 s on 6 places: the last begins after 90 s, and a node takes 100 s.
    assert wanted(decide(situation(tasks(60, run_s=10), node("n1")))) == 0
    assert wanted(decide(situation(tasks(67, run_s=10), node("n1")))) == 1


def test_what_runs_already_stands_before_what_waits() -> None:
    busy = [executor(n, f"n1/{n % 2}", 24, idle=False, ends_s=START_S + 1) for n in range(2)]
    soon = [executor(n, f"n1/{n % 2}", 24, idle=False, ends_s=START_S - 1) for n in range(2)]
    full = node("n1", room_gib=0)

    assert wanted(decide(situation(tasks(1), full, executors=busy))) == 1
    assert wanted(decide(situation(tasks(1), full, executors=soon))) == 0


def test_idle_executors_give_their_room() -> None:
    idle = [executor(n, f"n1/{n}", 24, idle=True) for n in range(2)]

    assert wanted(decide(situation(tasks(2), node("n1", room_gib=0), executors=idle))) == 0


def test_short_tasks_queue_on_a_node_that_was_asked_for() -> None:
    # Ten runs of 10 s after each other on each of its 6 places, in the time that another one would take.
    assert wanted(decide(situation(tasks(60, run_s=10)))) == 1


def test_never_more_than_max_with_what_is_there_and_on_its_way() -> None:
    many = tasks(100, run_s=1000)

    assert wanted(decide(situation(many))) == 3
    assert wanted(decide(situation(many, node("n1"), node("n2")))) == 1
    assert wanted(decide(situation(many, types={"a10": kind(most=0)}))) == 0


def test_nodes_of_the_type_that_another_bridge_has_count_for_max() -> None:
    others = {"n1": NodeUse("a10", leased=False), "n2": NodeUse("a10", leased=False)}

    assert wanted(decide(situation(tasks(100, run_s=1000), uses=others))) == 1


def test_more_asks_than_max_leaves_room_for_are_withdrawn() -> None:
    asks = [Ask(f"a{n}", "a10", 10.0) for n in range(3)]

    assert wanted(decide(situation(tasks(100, run_s=1000), node("n1"), node("n2"), asks=asks))) == 1


def test_an_ask_stays_as_long_as_it_shortens_the_wait() -> None:
    # Asked when the place came free after 110 s; now in 30 s, and the node in 20 s.
    busy = [executor(n, f"n1/{n}", 24, idle=False, ends_s=30) for n in range(2)]
    asks = [Ask("a1", "a10", START_S - 20)]

    assert wanted(decide(situation(tasks(1), node("n1", room_gib=0), executors=busy, asks=asks))) == 1


def test_an_ask_is_withdrawn_when_nothing_needs_it() -> None:
    asks = [Ask("a1", "a10", 20.0)]

    assert wanted(decide(situation(asks=asks))) == 0
    assert wanted(decide(situation(tasks(2), node("n1"), asks=asks))) == 0


def test_an_overdue_ask_is_still_the_same_ask() -> None:
    asks = [Ask("a1", "a10", START_S * 5)]

    assert wanted(decide(situation(tasks(1), asks=asks))) == 1


def test_a_node_that_came_and_is_not_leased_yet_is_waited_for() -> None:
    uses = {"n1": NodeUse("a10", leased=False, settling=True)}
    unread = node("n1", gpus=0)

    assert wanted(decide(situation(tasks(6, run_s=1000), unread, uses=uses))) == 0


def test_the_type_that_wastes_least_is_taken_first_and_the_next_one_when_it_is_used_up() -> None:
    types = {"big": kind(vram="80GiB", gpu_type="A100"), "small": kind(gpus=1, most=2)}

    found = decide(situation(tasks(11, gib=20, run_s=1000), types=types)).wanted

    assert found == {"big": 2, "small": 2}
    assert decide(situation(tasks(1, gib=40), types=types)).wanted == {"big": 1, "small": 0}


def test_the_wanted_device_decides_before_waste() -> None:
    types = {"big": kind(vram="80GiB", gpu_type="A100"), "small": kind()}
    asks_for = task(0, gpu_types=("A100", "A10"))

    assert decide(situation([asks_for], types=types)).wanted == {"big": 1, "small": 0}


def test_a_task_on_several_devices_gets_a_node_with_as_many() -> None:
    types = {"one": kind(gpus=1), "four": kind(gpus=4)}

    assert decide(situation([task(0, gpus=3)], types=types)).wanted == {"four": 1, "one": 0}


def test_labels_that_only_a_type_has_ask_for_it() -> None:
    types = {"plain": kind(), "zone": kind(labels={"zone": "b"})}

    found = decide(situation([task(0, labels=(("zone", "b"),))], node("n1"), types=types))

    assert found.wanted == {"plain": 0, "zone": 1}


# What goes back


def idle(*names: str, seconds: float = 301.0) -> dict[str, NodeUse]:
    return {name: NodeUse("a10", idle_s=seconds) for name in names}


def test_a_node_that_is_idle_for_long_enough_goes_back() -> None:
    assert decide(situation((), node("n1"), uses=idle("n1"))).release == ("n1",)
    assert decide(situation((), node("n1"), uses=idle("n1", seconds=299))).release == ()


def test_with_warm_executors_too_but_not_with_busy_ones() -> None:
    warm = [executor(1, "n1/0", 8, idle=True)]
    busy = [executor(1, "n1/0", 8, idle=False)]

    assert decide(situation((), node("n1"), executors=warm, uses=idle("n1"))).release == ("n1",)
    assert decide(situation((), node("n1"), executors=busy, uses=idle("n1"))).release == ()


def test_not_while_something_waits_that_it_could_run() -> None:
    assert decide(situation(tasks(1), node("n1"), uses=idle("n1"))).release == ()
    assert decide(situation(tasks(1, gib=80), node("n1"), uses=idle("n1"))).release == ("n1",)


def test_not_below_min_and_the_longest_idle_first() -> None:
    uses = {"n1": NodeUse("a10", 400.0), "n2": NodeUse("a10", 500.0), "n3": NodeUse("a10", 10.0)}
    nodes = [node(name) for name in uses]

    assert decide(situation((), *nodes, uses=uses)).release == ("n2", "n1")
    assert decide(situation((), *nodes, uses=uses, types={"a10": kind(min=2)})).release == ("n2",)


def test_not_what_another_bridge_has_and_not_what_is_of_no_type() -> None:
    uses = {"n1": NodeUse("a10", 400.0, leased=False)}

    assert decide(situation((), node("n1"), node("n2"), uses=uses)).release == ()


def test_what_was_given_back_is_taken_back_before_another_is_asked_for() -> None:
    found = decide(situation(tasks(7, run_s=1000), away={"n1": "a10"}))

    assert found.take_back == ("n1",)
    assert wanted(found) == 1


def test_what_was_given_back_is_let_alone_when_nothing_needs_it() -> None:
    assert decide(situation(tasks(1), node("n2"), away={"n1": "a10"})).take_back == ()
