"""Bytes of a snapshot as format 1 has them. They never change: another format gets a number."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tracker_raft.entries import pack_entry, pack_operation
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft import snapshots
from tracker_raft.raft.snapshots import Snapshot
from tracker_raft.raft.storage import Directory

GOLDEN = bytes.fromhex(
    "0000002584a6666f726d617401a7636c7573746572a6676f6c64656ea5696e64657803a47465726d07000000"
    "5783a46b696e64a468656164a4626f6479c42e84a6666f726d617401a76170706c69656403a774696d655f6d"
    "73cd03e9af73657373696f6e735f6f70656e656401a47365616cc4101385985649160db5a83a8eb8a1d80973"
    "000000c283a46b696e64a566696c6573a4626f6479c4989292a161c45d9202929701c4200101010101010101"
    "0101010101010101010101010101010101010101010101010a64ce00080000a0a09702c42003030303030303"
    "030303030303030303030303030303030303030303030303030a64ce00080000a0a092a162c4309201919701"
    "c42002020202020202020202020202020202020202020202020202020202020202020a64ce00080000a0a0a4"
    "7365616cc41093f32bccc2ebaf72e4010f95f7ec40480000004483a46b696e64a66c6561736573a4626f6479"
    "c4199195a170ad31302e302e302e313a37303030a0cd03e8cd07d1a47365616cc41089fc8b10557deb2873bb"
    "373d5bc29a370000005383a46b696e64a76d656d62657273a4626f6479c4279193a170c42001010101010101"
    "01010101010101010101010101010101010101010101010101c2a47365616cc4109152760f3bf48b9c278b2e"
    "fcecf1ccfb0000003483a46b696e64a873657373696f6e73a4626f6479c40791930104cd03e9a47365616cc4"
    "10fa60d9ba227a7060d692e22b187621a20000003f83a46b696e64a77265706c696573a4626f6479c4139193"
    "0104c40d81a86c656173655f6d73cd03e8a47365616cc41024d3e649e409899f789061abca53ef7700000076"
    "83a46b696e64a3656e64a4626f6479c44e81aa73746174655f68617368d94065613165626535666132633436"
    "3034633833663733303534336138643166373237316165393534623839306263646431373563326432313137"
    "38646361316362a47365616cc4107e7f84e582436845de0e1726cf0bbb961fa5646b26e2eed2ef6488d1e3d1"
    "ef1c356735d5b91fe0cc237dc66e81ee9750"
)
"""Two files, one of them in two versions, and one peer, at entry 3 of term 7."""
STATE_HASH = "ea1ebe5fa2c4604c83f730543a8d1f7271ae954b890bcdd175c2d21178dca1cb"
COUNTS = {"files": 2, "versions": 3, "contents": 1, "leases": 1, "memberships": 1, "sessions": 1}


def machine() -> TrackerMachine:
    machine = TrackerMachine()
    machine.skip(1)
    opened = machine.apply(2, pack_entry(1000, [pack_operation(0, 0, 0, {"op": "open_session"})]))
    session = opened.replies[0]["ok"]["session"]

    def publish(number: int, name: str, **more: object) -> bytes:
        body = {"content": bytes([number]) * 32, "size": 10, "manifest_bytes": 100, **more}
        rest = {"op": "publish", "name": name, "piece_bytes": 524288}
        return pack_operation(session, number, number, {**rest, **body})

    join = {"op": "join", "peer": "p", "address": "10.0.0.1:7000", "lease_ms": 1000}
    rows = [
        publish(1, "a"),
        publish(2, "b"),
        publish(3, "a", replace=True),
        pack_operation(session, 4, 4, {**join, "content": bytes([1]) * 32}),
    ]
    assert all("ok" in reply for reply in machine.apply(3, pack_entry(1001, rows)).replies)
    return machine


def test_a_snapshot_written_today_has_the_golden_bytes() -> None:
    """Broken: the format on disk changed; nodes cannot go back to the version before this one,
    and a laggard cannot take the snapshot of a leader of another version."""
    data = snapshots.head("golden", 3, 7) + b"".join(machine().snapshot())
    assert data + hashlib.sha256(data).digest() == GOLDEN


def test_the_golden_snapshot_is_read(tmp_path: Path) -> None:
    """Broken: an upgraded node cannot start from the directory of the version before."""
    (tmp_path / "snapshot").write_bytes(GOLDEN)
    storage = Directory(tmp_path)
    try:
        found = snapshots.load(storage, "golden")
    finally:
        storage.close()
    assert found is not None
    assert found[0] == Snapshot(3, 7, len(GOLDEN), GOLDEN[-32:])
    assert found[1].state_hash == STATE_HASH
    assert found[1].counts() == COUNTS
