"""The swarm simulator. If a test here fails, its figures are about a network that cannot be."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.swarm import Rivals, fitted, member, pictures
from bench.swarm_bound import Member, bound_s, one_server_s, tree_s
from bench.swarm_links import Flow, Link, Network
from bench.swarm_picture import POINTS_MAX, Chart, svg, thinned
from bench.swarm_scenario import MIB, SCENARIOS, UNEQUAL, Degrading, Kind, Scenario
from bench.swarm_world import Outcome, Stuck, simulate

SMALL = Scenario("small", peers=12, pieces=24, piece_bytes=MIB)


def settle(network: Network) -> None:
    for flow, rate in network.settle():
        network.grant(flow, rate)


def shared(capacities: list[float], paths: list[tuple[int, ...]]) -> list[float]:
    """The rates of flows over these links, all begun at once and fully settled."""
    links = [Link(capacity, f"l{number}") for number, capacity in enumerate(capacities)]
    flows = [Flow(tuple(links[number] for number in path)) for path in paths]
    network = Network(tolerance=0.0, rounds=1000)
    for flow in flows:
        network.start(flow)
    settle(network)
    return [flow.rate for flow in flows]


# -- the links ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacities", "paths", "expected"),
    [
        ([10.0], [(0,), (0,)], [5.0, 5.0]),
        # One receiver is slow: what it does not take is the other's.
        ([10.0, 2.0, 9.0], [(0, 1), (0, 2)], [2.0, 8.0]),
        # Two senders to one receiver, one of them slow.
        ([1.0, 10.0, 6.0], [(0, 2), (1, 2)], [1.0, 5.0]),
        # The line of Bertsekas and Gallager: a long flow beside two short ones.
        ([10.0, 4.0], [(0, 1), (0,), (1,)], [2.0, 8.0, 2.0]),
        # Through a rack's uplink, which three share and one does not pass.
        ([10.0, 3.0, 10.0], [(0, 1, 2), (0, 1), (1, 2), (0,)], [1.0, 1.0, 1.0, 8.0]),
    ],
)
def test_links_are_shared_as_worked_out_by_hand(
    capacities: list[float], paths: list[tuple[int, ...]], expected: list[float]
) -> None:
    """Broken: the simulated network would share its links by other rules than it says."""
    assert shared(capacities, paths) == pytest.approx(expected)


def filled(capacities: list[float], paths: list[tuple[int, ...]]) -> list[float]:
    """Max-min by its definition: all rates grow together until a link is full, and so on."""
    rates, growing, left = [0.0] * len(paths), set(range(len(paths))), list(capacities)
    while growing:
        users = {
            link: sum(link in paths[flow] for flow in growing) for link in range(len(capacities))
        }
        step = min(left[link] / count for link, count in users.items() if count)
        for flow in growing:
            rates[flow] += step
        for link, count in users.items():
            left[link] -= step * count
        full = {link for link, count in users.items() if count and left[link] <= 1e-9}
        growing = {flow for flow in growing if not full.intersection(paths[flow])}
    return rates


networks = st.integers(2, 6).flatmap(
    lambda count: st.tuples(
        st.lists(st.floats(1.0, 100.0), min_size=count, max_size=count),
        st.lists(
            st.lists(st.integers(0, count - 1), min_size=1, max_size=4, unique=True).map(tuple),
            min_size=1,
            max_size=12,
        ),
    )
)


@settings(max_examples=100, deadline=None)
@given(networks)
def test_rates_are_max_min_fair(network: tuple[list[float], list[tuple[int, ...]]]) -> None:
    """Broken: a flow would hold back another that has less, or leave a link idle."""
    assert shared(*network) == pytest.approx(filled(*network), rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_no_link_carries_more_than_its_capacity(seed: int) -> None:
    """Broken: simulated swarms would be faster than any real one."""
    chance = random.Random(seed)
    links = [Link(chance.uniform(1.0, 100.0), f"l{number}") for number in range(8)]
    network = Network()
    flows: list[Flow] = []
    for _ in range(60):
        what = chance.random()
        if what < 0.5 or not flows:
            flows.append(Flow(tuple(chance.sample(links, chance.randint(1, 4)))))
            network.start(flows[-1])
        elif what < 0.7:
            network.stop(flows.pop(chance.randrange(len(flows))))
        elif what < 0.8:
            network.change(chance.choice(links), chance.uniform(1.0, 100.0))
            settle(network)
        else:
            settle(network)
        for link in links:
            carried = sum(flow.rate for flow in link.flows)
            assert carried <= link.capacity * (1 + 1e-9)
            assert carried == pytest.approx(link.used, abs=1e-6)


# -- the bound ------------------------------------------------------------------------------------


def still(up: float, down: float, at_s: float = 0.0, rack: int = 0) -> Member:
    return Member(((at_s, up),), down, rack)


def test_the_bound_is_the_largest_of_its_parts() -> None:
    """Broken: a swarm would be compared with a bound that is not one."""
    fast, slow = still(10.0, 50.0), still(10.0, 5.0)
    assert bound_s(100.0, [still(10.0, 1.0)], [fast], [fast]) == pytest.approx(10.0)
    assert bound_s(100.0, [still(100.0, 1.0)], [fast, slow], [fast, slow]) == pytest.approx(20.0)
    many = [still(1.0, 1e9)] * 99
    assert bound_s(100.0, [still(100.0, 1.0)], many, many) == pytest.approx(9900 / 199)


def test_the_bound_knows_late_comers_racks_and_changes() -> None:
    """Broken: the bound would stand too high where peers come late, and be beaten."""
    late = still(10.0, 10.0, at_s=5.0)
    assert bound_s(100.0, [still(1000.0, 1.0)], [late], [late]) == pytest.approx(15.0)
    inside = [still(0.0, 100.0, rack=1) for _ in range(4)]
    seeder = [still(1000.0, 1.0, rack=0)]
    assert bound_s(100.0, seeder, inside, inside, [8.0, 8.0]) == pytest.approx(50.0)
    falls = Member(((0.0, 10.0), (5.0, 1.0)), 1e9)
    assert falls.could_send(15.0) == pytest.approx(60.0)
    assert bound_s(60.0, [falls], [late], [late]) == pytest.approx(15.0)


def test_a_server_and_a_tree_are_worked_out_as_by_hand() -> None:
    """Broken: the swarm would be compared with rivals slower, or faster, than they are."""
    seeder, peers = still(10.0, 1.0), [still(10.0, 100.0)] * 6
    assert one_server_s(100.0, [seeder], peers) == pytest.approx(60.0)
    # A chain: the last of six has the first piece after 6 hops of 1 s, the rest in 9 s.
    assert tree_s(100.0, 10.0, seeder, peers, 1)[-1] == pytest.approx(15.0)
    # Two below each: half the rate, two levels of 2 s.
    assert tree_s(100.0, 10.0, seeder, peers, 2)[-1] == pytest.approx(4.0 + 18.0)


# -- whole runs -----------------------------------------------------------------------------------

RUNS = {
    "flash": SMALL,
    "unequal": SMALL.but(kinds=UNEQUAL),
    "racks": SMALL.but(racks=3),
    "churn": SMALL.but(kinds=UNEQUAL, arrive_s=2.0, stay=False, lifetime_s=4.0, back_s=1.0),
    "gone": SMALL.but(kinds=UNEQUAL, lifetime_s=4.0, back_s=None),
    "degrading": SMALL.but(kinds=UNEQUAL, degrading=Degrading(0.5, until_s=2.0)),
    "sources": SMALL.but(seeders=8, seeder_kinds=UNEQUAL, degrading=Degrading(0.5, until_s=1.0)),
}


def essence(outcome: Outcome) -> tuple[object, ...]:
    return outcome.ends_s, outcome.events, outcome.seeder_copies, outcome.tracker.by_second()


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("choice", ["rate", "learning"])
def test_no_run_beats_the_bound(name: str, choice: str) -> None:
    """Broken: the model moves bytes that no link could carry; none of its figures holds."""
    outcome = simulate(RUNS[name].but(choice=choice), 3)
    rivals = Rivals(outcome)
    assert outcome.last_s >= rivals.bound_s
    for node in outcome.nodes:
        until_s = max(outcome.last_s, node.began_s)
        assert node.sent_bytes <= member(node).could_send(until_s) * (1 + 1e-6) + 1


@pytest.mark.parametrize("name", RUNS)
def test_everybody_gets_everything(name: str) -> None:
    """Broken: a run would end, or be stuck, with peers that lack pieces nobody brings."""
    outcome = simulate(RUNS[name], 5)
    fetchers = outcome.nodes[RUNS[name].seeders :]
    done = [node for node in fetchers if node.done]
    assert len(done) == len(outcome.times_s)
    assert all(node.here.count == RUNS[name].pieces for node in done)
    assert len(done) == len(fetchers) or RUNS[name].back_s is None
    # Nobody got a byte twice that was not asked for twice, and nobody one that was not sent.
    assert 1.0 <= outcome.sent_copies < 1.6 or name in ("gone", "churn")


def test_a_seed_replays_a_run() -> None:
    """Broken: what a simulated swarm did could not be looked at again."""
    churn = RUNS["churn"]
    assert essence(simulate(churn, 7)) == essence(simulate(churn, 7))
    assert essence(simulate(churn, 7)) != essence(simulate(churn, 8))


def test_a_stuck_run_says_so() -> None:
    """Broken: a swarm that cannot end would be simulated for ever."""
    nothing = SMALL.but(seeder=Kind(1.0, 1.0, 1.0), limit_s=20.0)
    with pytest.raises(Stuck, match="12 peers are not done"):
        simulate(nothing, 1)


def test_the_tracker_sees_every_peer_come_and_finish() -> None:
    """Broken: the load of the trackers would be told too low."""
    outcome = simulate(SMALL, 1)
    asked = {word: sum(one.values()) for word, one in outcome.tracker.asked.items()}
    assert asked["lookup"] == 12 and asked["peers"] >= 12
    assert asked["join"] == 1 + 2 * 12, "the seeder once, each other with a piece and when done"
    assert sum(outcome.tracker.by_second()) == sum(asked.values())


# -- pictures -------------------------------------------------------------------------------------


def test_pictures_are_drawn_of_what_was_measured() -> None:
    """Broken: the pictures of a run would be no SVG, or not show it."""
    outcome = simulate(SMALL, 1)
    for chart in pictures(outcome, Rivals(outcome)).values():
        root = ElementTree.fromstring(svg(chart))
        lines = [one for one in root.iter() if one.tag.endswith("polyline")]
        assert len(lines) == len(chart.lines)


def test_a_logarithmic_picture_stays_inside_its_frame() -> None:
    """Broken: a line would run out of the picture."""
    line = [(float(n), float(n * n)) for n in range(1, 2000)]
    root = ElementTree.fromstring(svg(Chart("<a & b>", "x", "y", {"l": line}, {}, True)))
    (drawn,) = (one for one in root.iter() if one.tag.endswith("polyline"))
    places = [tuple(map(float, place.split(","))) for place in drawn.attrib["points"].split()]
    assert len(places) <= POINTS_MAX + POINTS_MAX // 8 + 2
    assert all(0 <= x <= 640 and 0 <= y <= 360 for x, y in places)
    assert thinned(line)[-1] == line[-1] and thinned([]) == []


def test_scenarios_fit_the_number_of_peers() -> None:
    """Broken: a thousand peers would sit in as many racks as ten thousand."""
    assert fitted("racks", 1000, 64, 4096, "rate").racks == 25
    assert fitted("racks", 20, 64, 4096, "rate").racks == 2
    assert fitted("flash", 1000, 64, 4096, "rate").racks == 0
    assert set(SCENARIOS) >= {"flash", "unequal", "racks", "churn", "degrading"}
