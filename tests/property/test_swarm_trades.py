"""Whole swarms in virtual time. If a test here fails, peers wait for the seeder instead of taking
from each other, or one that is slow or gone holds up the others."""

from __future__ import annotations

import pytest
from swarm_simulation import PIECE, World

PIECES = 48
RATE = 10e6
IDEAL_S = PIECES * PIECE / RATE
"""The seeder has to send one copy, however well the others trade."""


@pytest.mark.parametrize("seed", range(1, 3))
def test_a_fresh_swarm_trades(seed: int) -> None:
    """Broken if eight newcomers take eight copies from the seeder, or wait for it."""
    world = World(seed, PIECES, [RATE] * 9)
    took_s = world.run()
    copies = world.seeder.sent_bytes / (PIECES * PIECE)
    assert took_s < 2.5 * IDEAL_S, f"{took_s / IDEAL_S:.2f} times the ideal"
    assert copies < 3, f"{copies:.2f} copies"
    received = sum(node.sent_bytes for node in world.nodes)
    assert received < 1.1 * 8 * PIECES * PIECE, "pieces are sent twice"


def test_slow_peers_hold_up_nobody() -> None:
    """Broken if a download is as slow as the slowest peer it asked."""
    world = World(5, PIECES, [RATE] * 5 + [RATE / 100] * 4)
    assert world.run() < 4 * IDEAL_S


def test_a_swarm_outlives_its_seeder() -> None:
    """Broken if pieces that only a few peers have are left until the seeder has gone."""
    world = World(7, PIECES, [RATE] * 9)
    world.at(2.0 * IDEAL_S, lambda: world.kill(world.seeder))
    assert world.run() < 4 * IDEAL_S


def test_peers_that_die_take_nothing_along() -> None:
    """Broken if what a peer was asked for dies with it."""
    world = World(9, PIECES, [RATE] * 9)
    for number, node in enumerate(world.leechers[:4]):
        world.at((number + 1) * 0.2 * IDEAL_S, lambda node=node: world.kill(node))
    assert world.run() < 4 * IDEAL_S
