"""The benchmark harness: a wrong figure is worse than none, because it is believed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench import harness
from bench.children import End, receive
from bench.harness import Result, Sample


def test_contenders_take_turns() -> None:
    """Broken: A A B B would give one contender the quiet half of the machine's hour."""
    order: list[str] = []
    heard: list[Sample] = []

    def run(name: str) -> dict[str, float]:
        order.append(name)
        return {"ms": float(len(order))}

    samples = harness.alternate(2, {"a": lambda: run("a"), "b": lambda: run("b")}, heard.append)

    assert order == ["a", "b", "a", "b"]
    assert [(s.contender, s.round) for s in samples] == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert heard == samples


def test_a_ratio_is_taken_within_each_round() -> None:
    """Broken: a machine that slows down between rounds would change the ratio."""
    ours, theirs = [100.0, 50.0, 10.0], [200.0, 100.0, 20.0]
    assert harness.ratio(ours, theirs) == {"median": 0.5, "min": 0.5, "max": 0.5, "n": 3}
    with pytest.raises(ValueError, match="shorter"):
        harness.ratio(ours, theirs[:2])


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([5.0], 50, 5.0), ([3.0, 1.0, 2.0], 50, 2.0), ([*map(float, range(1, 21))], 90, 18.0)],
)
def test_percentiles_are_samples_that_were_seen(
    values: list[float], percent: float, expected: float
) -> None:
    """Broken: the failover figures would name times that never happened."""
    assert harness.percentile(values, percent) == expected


def test_the_worst_of_few_samples_is_their_p99() -> None:
    """Broken: an interpolated p99 of 20 samples would hide the worst of them."""
    assert harness.spread([1.0] * 19 + [90.0]) == {
        "p50": 1.0,
        "p90": 1.0,
        "p99": 90.0,
        "worst": 90.0,
        "n": 20,
    }


def test_no_samples_give_no_figure() -> None:
    """Broken: an empty run would be told as a figure, or end in a traceback without a reason."""
    for refuse in (harness.summary, harness.spread):
        with pytest.raises(ValueError, match="no samples"):
            refuse([])


def test_a_result_keeps_what_a_doubter_needs(tmp_path: Path) -> None:
    """Broken: a figure could not be traced to its machine, commit, settings and samples."""
    result = Result("demo", {"runs": 1}, {"ms": 2.0}, [Sample("a", 1, {"ms": 2.0})], {"b": "none"})
    path = result.save(tmp_path / "results")
    kept = json.loads(path.read_text(encoding="utf-8"))

    assert path.name.startswith("demo-") and path.suffix == ".json"
    assert kept["samples"] == [{"contender": "a", "round": 1, "values": {"ms": 2.0}}]
    assert kept["settings"] == {"runs": 1} and kept["absent"] == {"b": "none"}
    assert {"cpu", "cores", "memory_mib", "kernel", "python"} <= set(kept["machine"])
    assert set(kept["commit"]) == {"id", "dirty"}


def test_the_commit_says_when_files_were_changed(tmp_path: Path) -> None:
    """Broken: a figure of unsaved work would be credited to a commit that never gave it."""

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert harness.commit(tmp_path) == {"id": None, "dirty": None}
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    clean = harness.commit(tmp_path)
    (tmp_path / "file").write_text("two")

    assert len(clean["id"]) == 40 and clean["dirty"] is False
    assert harness.commit(tmp_path) == {"id": clean["id"], "dirty": True}


@pytest.mark.parametrize("shape", ["copy", "verified"])
@pytest.mark.parametrize("size", [1, 3 * 1024 * 1024 + 5])
def test_the_limits_move_every_byte(shape: str, size: int, tmp_path: Path) -> None:
    """Broken: the download would be compared with a copy that does less than a copy."""
    source, out = tmp_path / "source", tmp_path / "out"
    harness.random_file(source, size)
    with End("serve", str(source)) as sender:
        values = receive(sender, out, size, shape, str(sender.said["port"]), str(size), str(out))

    assert out.read_bytes() == source.read_bytes()
    assert values["mb_per_s"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]
