"""The benchmarks as one runs them, as short as they go: they must not rot between two releases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import python

from bench.swarms import rival_absent

ROOT = Path(__file__).resolve().parent.parent.parent


def bench(*arguments: str) -> str:
    return python("-m", "bench", *arguments, cwd=ROOT)


def result_of(out: Path, *arguments: str) -> dict[str, Any]:
    """What a run printed as JSON, which must be what it kept."""
    printed = json.loads(bench(*arguments, "--json", "--out", str(out)))
    (kept,) = out.iterdir()
    assert json.loads(kept.read_text(encoding="utf-8")) == printed
    assert isinstance(printed, dict)
    return printed


@pytest.mark.system
def test_without_a_name_the_benchmarks_are_listed() -> None:
    """Broken: nobody would find out what can be measured."""
    listed = bench()
    names = [line.split()[0] for line in listed.splitlines()]
    assert names == [
        "choice",
        "download",
        "failover",
        "hashing",
        "one",
        "overload",
        "picker",
        "publish",
        "reads",
        "scale",
        "small",
        "snapshot",
        "swarm",
        "tls",
    ]


@pytest.mark.system
def test_a_download_is_measured_beside_its_limits(tmp_path: Path) -> None:
    """Broken: the download figure could not be had, or would stand alone."""
    arguments = ["download", "--mib", "2", "--runs", "1", "--trackers", "1", "--rival", "none"]
    arguments += ["--shape", "1to1", "--shape", "1to4"]
    result = result_of(tmp_path / "kept", *arguments, "--dir", str(tmp_path))

    names = ["copy", "verified", "peer 1to1", "peer 1to4"]
    assert [s["contender"] for s in result["samples"]] == names
    assert result["figures"]["peer_to_copy 1to1"]["median"] > 0
    swarm = result["samples"][-1]["values"]
    assert 1 <= swarm["copies_from_seeders"] <= 4.5
    assert 0 < swarm["own_mib"] <= swarm["peak_mib"]
    assert set(result["absent"].values()) == {"not asked for"}
    assert [path.name for path in tmp_path.iterdir()] == ["kept"], "files were left behind"


@pytest.mark.system
def test_a_download_is_measured_beside_its_rival(tmp_path: Path) -> None:
    """Broken: the rival would be compared with another work than ours, or silently left out."""
    arguments = ["download", "--mib", "2", "--runs", "1", "--trackers", "1", "--shape", "4to1"]
    result = result_of(tmp_path / "kept", *arguments, "--dir", str(tmp_path))

    if rival_absent() is not None:
        assert "pip install libtorrent" in result["absent"]["libtorrent"]
        assert list(result["figures"]) == ["peer 4to1"]
        return
    assert "libtorrent" not in result["absent"]
    assert result["figures"]["peer_to_libtorrent 4to1"]["median"] > 0
    theirs = result["samples"][-1]["values"]
    assert theirs["copies_from_seeders"] >= 1


@pytest.mark.system
@pytest.mark.skipif(not shutil.which("rsync"), reason="no rsync here")
def test_a_download_is_measured_beside_a_server_and_a_command(tmp_path: Path) -> None:
    """Broken: what people would use else could not be compared with."""
    arguments = ["download", "--mib", "2", "--runs", "1", "--trackers", "1", "--shape", "1to4"]
    result = result_of(tmp_path / "kept", *arguments, "--rival", "rsync", "--dir", str(tmp_path))
    assert [s["contender"] for s in result["samples"]] == ["peer 1to4", "rsync 1to4"]
    assert result["figures"]["peer_to_rsync 1to4"]["median"] > 0


@pytest.mark.system
def test_small_files_and_one_are_measured(tmp_path: Path) -> None:
    """Broken: what a transfer costs beside its bytes would not be seen."""
    one = result_of(tmp_path / "one", "one", "--runs", "1", "--rival", "none")
    assert one["figures"]["peer"]["ms"]["median"] > 0
    arguments = ["small", "--files", "250", "--runs", "1", "--dir", str(tmp_path)]
    small = result_of(tmp_path / "small", *arguments)
    assert {"peer", "cp -r", "tar", "peer_to_cp -r", "peer_to_tar"} <= set(small["figures"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "small"], "files were left"


@pytest.mark.system
def test_the_cost_of_a_decision_is_measured(tmp_path: Path) -> None:
    """Broken: a picker whose cost grows with the file would not be seen."""
    result = result_of(tmp_path, "picker", "--gib", "1", "--peers", "5", "--runs", "1")
    assert result["figures"]["1 GiB"]["decision_us"]["median"] > 0
    assert result["figures"]["large_to_small"]["n"] == 1


@pytest.mark.system
def test_an_overload_is_measured(tmp_path: Path) -> None:
    """Broken: a cluster that does less the more it is asked for would not be seen."""
    arguments = ["overload", "--runs", "1", "--seconds", "0.2", "--connections", "6"]
    result = result_of(tmp_path, *arguments, "--nodes", "1", "--under-way", "60")
    names = ["closed loop", "0.5 x", "1 x", "2 x", "4 x"]
    assert [sample["contender"] for sample in result["samples"]] == names
    for name in names:
        values = result["figures"][name]
        assert values["goodput_per_s"]["median"] > 0 and 0 < values["of_peak"]["median"] <= 1
        assert values["other_errors"]["median"] == 0, values


@pytest.mark.system
def test_reads_of_every_level_are_measured(tmp_path: Path) -> None:
    """Broken: what freshness costs could not be had, or a read that failed would count."""
    result = result_of(tmp_path, "reads", "--runs", "1", "--seconds", "0.1", "--connections", "2")
    assert len(result["figures"]) == 6
    for values in result["figures"].values():
        assert values["reads_per_s"]["median"] > 0 and values["errors"]["median"] == 0
        assert values["p50_us"]["median"] > 0


@pytest.mark.system
def test_a_swarm_is_simulated_beside_its_bound(tmp_path: Path) -> None:
    """Broken: how a swarm grows could not be told, or stood without bound, tree and pictures."""
    arguments = ["swarm", "--peers", "5", "--peers", "10", "--pieces", "8", "--scenario", "racks"]
    printed = json.loads(bench(*arguments, "--json", "--out", str(tmp_path)))
    figures = printed["figures"]["racks 10"]

    assert figures["last_to_bound"]["median"] >= 1
    assert figures["tree_s"]["median"] >= figures["bound_s"]["median"]
    drawn = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert drawn >= {"racks-growth.svg", "racks-10-done.svg", "racks-10-tracker.svg"}


@pytest.mark.system
def test_the_choices_compete(tmp_path: Path) -> None:
    """Broken: which peer to ask could not be settled again on another machine."""
    arguments = ["choice", "--scenario", "sources", "--seeds", "1", "--runs", "1", "--mib", "1"]
    arguments += ["--rate", "8", "--rate", "4"]
    choices = ["--choice", "rate", "--choice", "learning"]
    result = result_of(tmp_path, *arguments, *choices)

    names = [f"{kind}: {one}" for kind in ("sources", "real", "real, one degrades")
             for one in ("rate", "learning")]  # fmt: skip
    assert sorted(result["figures"]) == sorted(names)
    assert result["figures"]["sources: rate"]["p99_to_reference"]["median"] == 1.0


@pytest.mark.system
def test_hashing_is_measured_beside_its_limits(tmp_path: Path) -> None:
    """Broken: that sharing is as fast as SHA-256 could not be told on another machine."""
    arguments = ["hashing", "--mib", "8", "--files", "20", "--runs", "1"]
    result = result_of(tmp_path / "kept", *arguments, "--dir", str(tmp_path))

    for kind in ("file", "tree"):
        for name in ("scan", "remembered", "memory"):
            assert result["figures"][f"{name} {kind}"]["to_raw"]["median"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["kept"], "files were left behind"


@pytest.mark.system
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_is_measured_beside_the_same_in_the_clear(tmp_path: Path) -> None:
    """Broken: what encryption costs would be told without what it is compared with, or of another
    cipher than its name says."""
    ways = ["--way", "tls 1", "--way", "aes128 2", "--way", "memory 2", "--way", "mmap 2"]
    arguments = ["tls", "--mib", "3", "--runs", "1", *ways]
    result = result_of(tmp_path / "kept", *arguments, "--dir", str(tmp_path))

    assert list(result["figures"]) == ["plain 2", "tls 1", "aes128 2", "mmap 2", "memory 2"]
    assert result["figures"]["plain 2"]["to_plain"]["median"] == 1
    assert result["absent"]["ktls 2"] == "not asked for"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"], "files were left behind"


@pytest.mark.system
def test_publish_measures_ours_and_says_who_is_absent(tmp_path: Path) -> None:
    """Broken: the comparison with etcd and PySyncObj cannot be run, or hides who is left out."""
    short = ["--runs", "1", "--seconds", "0.3", "--clients", "2", "--batch", "8"]
    result = result_of(tmp_path, "publish", *short, "--without", "etcd", "--without", "stock")
    assert set(result["absent"]) == {"etcd", "stock"}
    assert set(result["figures"]) == {
        "ours, 2 clients",
        "ours, 4 x 8 at once",
        "ours, 16 x 8 at once",
        "ours in frames, 4 x 8 at once",
    }
    for figures in result["figures"].values():
        assert figures["per_s"]["median"] > 0
        assert figures["failed"]["median"] == 0


@pytest.mark.system
def test_scale_measures_connected_clients_and_catching_up(tmp_path: Path) -> None:
    """Broken: what grows with clients, log and files cannot be measured."""
    short = ["--runs", "1", "--seconds", "0.5", "--clients", "5"]
    result = result_of(tmp_path, "scale", *short, "--operations", "100", "--files", "1000")
    assert result["figures"]["5 connected"]["failed"]["median"] == 0
    assert result["figures"]["catch-up"]["operations"]["median"] >= 100
    assert result["figures"]["1000 files"]["cpu_us"]["median"] > 0
