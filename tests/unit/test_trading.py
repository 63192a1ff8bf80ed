"""Peers that fetch and serve at once, over real sockets. If a test here fails, a swarm does not
trade, a limit is none, or a peer that misbehaves costs more than moments."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_world import LOOPBACK, PIECE, QUICK, World, wait_until, world_in
from test_seeder import Asker, refusal
from test_transfer_bad_peers import manifest_alone, scanned_id

from peer import messages
from peer.downloader import Download, NoSource
from peer.lease import Lease
from peer.limits import PEER_PROTOCOL_VERSION
from peer.link import Lost
from peer.messages import Answered, Cancel, Have, Hello, Request
from peer.pieces import Run
from peer.ranges import Ranges
from peer.seeder import Seeder
from tracker_raft import wire
from tracker_raft.errors import BadRequest, Busy, NotFound

UNHURRIED = dataclasses.replace(QUICK, progress_timeout_s=10.0, patience_s=20.0)
"""For seeders that are held back: slow is not stalled."""
IMPATIENT = dataclasses.replace(QUICK, patience_s=20.0, grace_s=0.2)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as world:
        yield world


class Trader:
    """A peer that serves while it fetches."""

    def __init__(self, world: World, name: str, content: bytes, **options: object) -> None:
        self.seeder = Seeder(name, {}, LOOPBACK, limits=QUICK)
        self.lease = Lease(world.trackers, name, str(self.seeder.address))
        self.download: Download = world.download(
            content,
            name,
            own_peer=name,
            limits=UNHURRIED,
            seeder=self.seeder,
            lease=self.lease,
            **options,
        )

    def __enter__(self) -> Trader:
        return self

    def __exit__(self, *_: object) -> None:
        self.lease.close()
        self.seeder.close()


def test_a_peer_serves_while_it_fetches(world: World) -> None:
    """Broken if a newcomer waits for the seeder although another peer has the pieces."""
    path = world.random_file(40)
    held = dataclasses.replace(QUICK, up_bytes_s=20 * PIECE)
    content = world.seed(path, "slow", limits=held)
    with Trader(world, "first", content) as first:
        thread = threading.Thread(target=first.download.run)
        thread.start()
        wait_until(lambda: "first" in world.trackers.swarms[content], "it is known as partial")
        assert not world.trackers.swarms[content]["first"].complete
        with Asker(first.seeder.address) as asker:
            answer = asker.ask(Have(content, follow=True))
            here = Ranges.from_bitmap(asker.payload(answer["bytes"]), 40)
            assert 0 < here.count < 40
            news = messages.parse_news(asker.link.receive_frame(65536), content)
            assert news is not None
            told = Ranges(*((run.first, run.end) for run in news))
            assert told.count
            assert not told.overlap(here), "it tells what was said before"
            run = news[0]
            size = asker.ask(Request(content, run.first, 1))["bytes"]
            start = run.first * PIECE
            assert asker.payload(size) == path.read_bytes()[start : start + size]
            world.seed(path, "fast")
            with pytest.raises(Lost, match="closed"):
                while True:
                    asker.link.receive_frame(65536)
        thread.join(20)
        assert not thread.is_alive()
        assert "first" not in world.trackers.swarms[content], "it left when it was done"


def test_with_seed_it_stays_and_is_complete(world: World) -> None:
    """Broken if get --seed is a seeder that nobody knows, or that serves nothing."""
    path = world.random_file(20)
    content = world.seed(path, "seeder")
    with Trader(world, "first", content, seed=True) as first:
        first.download.run()
        assert world.trackers.swarms[content]["first"].complete
        with Asker(first.seeder.address) as asker:
            assert asker.ask(Have(content, follow=True))["complete"] is True
            assert asker.ask(Request(content, 3, 1))["bytes"] == PIECE


def test_partial_peers_complete_each_other(world: World) -> None:
    """Broken if pieces go round only by way of a complete peer."""
    path = world.random_file(64)
    held = dataclasses.replace(QUICK, up_bytes_s=100 * PIECE)
    content = world.seed(path, "seeder", limits=held)
    traders = [Trader(world, name, content) for name in ("one", "two", "three")]
    threads = [threading.Thread(target=trader.download.run) for trader in traders]
    with ExitStack() as stack:
        for trader in traders:
            stack.enter_context(trader)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(trader.download.snapshot()["bytes_done"] == 64 * PIECE for trader in traders)
    sent = world.seeders["seeder"].bytes_sent
    assert sent < 2.5 * 64 * PIECE, f"{sent / 64 / PIECE:.1f} copies"


def test_what_is_read_is_fetched_first(world: World) -> None:
    """Broken if a reader of an open content waits for pieces nobody reads."""
    path = world.random_file(200)
    content = world.seed(path, limits=dataclasses.replace(QUICK, up_bytes_s=100 * PIECE))
    download = world.download(content)
    download.prefer(150, 10)
    seen: list[bool] = []

    def look(_: object) -> None:
        missing = Ranges(*download.snapshot()["missing"])
        if download.store is not None and not seen and not missing.overlap(Ranges((150, 160))):
            seen.append(missing.count > 100)

    download._progress = look
    download.run()
    assert seen == [True]


# -- bad peers ------------------------------------------------------------------------------------


def test_a_peer_that_lies_about_what_it_has_is_given_up_with_a_reason(world: World) -> None:
    """Broken if nobody can read why a peer was left alone."""
    path = world.random_file(20)
    content = scanned_id(path)

    def lie(number: int) -> bytes:
        return messages.encode_error(number, NotFound("not here"))

    world.listen("a", content, manifest_alone(path, lie))
    started_s = time.monotonic()
    with pytest.raises(NoSource, match=r"a at .* said it has pieces \d+\+\d+ and answered not_f"):
        world.fetch(content, limits=IMPATIENT)
    assert time.monotonic() - started_s < 5, "it failed as soon as nobody was left"
    world.seed(path, "z")
    assert world.fetch(content).path.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "news",
    [
        {"news": [[0, 10**9]], "content": b"c"},
        {"news": [[0, 20], [0, 1]], "content": b"c"},
        {"news": [[19, 2]], "content": b"c"},
        {"news": [], "content": b"c"},
        {"news": [[1]], "content": b"c"},
        {"news": [[0, 1]], "content": b"other"},
    ],
    ids=["absurd", "twice", "beyond", "empty", "shape", "other content"],
)
def test_a_flood_of_news_bans(world: World, news: dict[str, object]) -> None:
    """Broken if a peer can keep another one busy with what it says it has."""
    path = world.random_file(20)
    content = scanned_id(path)
    if news["content"] == b"c":
        news = {**news, "content": content}
    world.listen("a", content, manifest_alone(path, behind=wire.encode(news, 65536)))
    with pytest.raises(NoSource, match=r"a at .* (told|count is)"):
        world.fetch(content, limits=IMPATIENT)


def test_a_paused_peer_costs_moments(world: World) -> None:
    """Broken if what a silent peer was asked for waits for its deadline."""
    path = world.random_file(60)
    content = world.seed(path, "z")
    world.listen("a", content, manifest_alone(path))
    patient = dataclasses.replace(QUICK, progress_timeout_s=30.0, patience_s=60.0)
    fetched = world.fetch(content, limits=patient)
    assert fetched.path.read_bytes() == path.read_bytes()
    assert fetched.seconds < 5


def test_a_flood_of_requests_is_turned_away_by_name(world: World) -> None:
    """Broken if one peer makes another remember thousands of requests."""
    path = world.random_file(20)
    content = world.seed(path, limits=dataclasses.replace(QUICK, requests_queued_max=8))
    seeder = world.seeders["seeder"]
    with Asker(seeder.address) as asker:
        flood = [messages.encode_request(n, Request(content, 0, 1)) for n in range(1, 50)]
        asker.link.send(b"".join(flood))
        with pytest.raises(Answered, match="over 8 requests sent ahead"):
            asker.reply(0)
    wait_until(lambda: seeder.turned_away, "it is remembered")
    with pytest.raises(Answered, match="asker is not served any more: over 8 requests"):
        Asker(seeder.address)
    fetched = world.fetch(content)
    assert fetched.path.read_bytes() == path.read_bytes()


def test_trackers_may_be_away_while_it_runs(world: World) -> None:
    """Broken if a running download needs its trackers."""
    path = world.random_file(30)
    content = world.seed(path, limits=dataclasses.replace(QUICK, up_bytes_s=60 * PIECE))
    download = world.download(content)
    download._progress = lambda moment: setattr(world.trackers, "away", moment.bytes_done > 0)
    assert download.run().path.read_bytes() == path.read_bytes()
    assert world.trackers.away
    world.trackers.away = False


# -- limits ---------------------------------------------------------------------------------------


def test_no_slot_is_busy_with_a_time_and_the_connection_goes_on(world: World) -> None:
    """Broken if a full peer hangs up, or serves more than it may."""
    path = world.random_file(20)
    content = world.seed(path, limits=dataclasses.replace(QUICK, upload_slots_max=1))
    address = world.seeders["seeder"].address
    with Asker(address) as one, Asker(address) as two:
        one.payload(one.ask(Request(content, 0, 1))["bytes"])
        error = refusal(two, Request(content, 0, 1))
        assert isinstance(error, Busy)
        assert error.retry_after_s and error.retry_after_s <= QUICK.slot_idle_s
        assert two.ask(Have(content))["complete"] is True
    assert world.fetch(content).path.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("side", ["up", "down"])
def test_rate_limits_hold(world: World, side: str) -> None:
    """Broken if --up or --down is not kept."""
    path = world.random_file(30)
    limited = dataclasses.replace(QUICK, **{f"{side}_bytes_s": 40 * PIECE})
    content = world.seed(path, limits=limited if side == "up" else QUICK)
    fetched = world.fetch(content, limits=limited if side == "down" else QUICK)
    assert fetched.path.read_bytes() == path.read_bytes()
    assert 0.4 < fetched.seconds < 3


def test_cancelled_requests_are_answered_with_no_bytes(world: World) -> None:
    """Broken if a peer sends what nobody waits for any more, or loses count of its answers."""
    path = world.directory / "large"
    with path.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    content = world.seed(path, piece_bytes=512 * 1024)
    with Asker(world.seeders["seeder"].address) as asker:
        frames = [messages.encode_request(n, Request(content, 0, 32)) for n in range(1, 5)]
        asker.link.send(b"".join(frames) + messages.encode_request(0, Cancel((2, 4, 99))))
        sizes = []
        for number in range(1, 5):
            sizes.append(asker.reply(number)["bytes"])
            asker.payload(sizes[-1])
        assert sizes == [16 * 1024 * 1024, 0, 16 * 1024 * 1024, 0]
        asker.number = 10
        assert asker.ask(Have(content))["complete"] is True


def test_newcomers_are_told_to_start_apart(world: World) -> None:
    """Broken if all newcomers fetch the same pieces first."""
    content = world.seed(world.random_file(100))
    starts = []
    for _ in range(5):
        with Asker(world.seeders["seeder"].address) as asker:
            starts.append(asker.ask(Have(content, follow=True))["start"])
    gaps = [abs(a - b) for a in starts for b in starts if a is not b]
    assert min(gaps) >= 10


runs = st.lists(st.builds(Run, st.integers(0, 2**20), st.integers(1, 2**10)), min_size=1)


@given(runs.filter(lambda some: len(some) <= 1000))
def test_news_is_read_as_it_was_told(news: list[Run]) -> None:
    """Broken if a peer is banned for honest news."""
    frame = messages.encode_news(bytes(32), news)
    assert messages.parse_news(wire.decode_body(memoryview(frame)[4:]), bytes(32)) == news
    with pytest.raises(BadRequest):
        messages.parse_news(wire.decode_body(memoryview(frame)[4:]), b"other")


def test_a_hello_says_what_is_understood(world: World) -> None:
    """Broken if a peer of the first version is sent what it cannot read."""
    world.seed(world.random_file(1))
    with Asker(world.seeders["seeder"].address) as asker:
        again = asker.ask(Hello(PEER_PROTOCOL_VERSION, "asker"))
        assert set(again["features"]) == {"news", "cancel"}
