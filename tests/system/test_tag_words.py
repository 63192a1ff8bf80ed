"""``tag``, ``untag`` and who follows a tag, on a running cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_follow import following, told

from peer import Peer, cli
from peer.follow import check_followed
from tracker_raft import TrackerClient
from tracker_raft.cluster import Cluster
from tracker_raft.errors import BadRequest, Conflict

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]


def words(cluster: Cluster) -> Callable[..., Result]:
    def run(*arguments: object) -> Result:
        trackers = ["--trackers", ",".join(cluster.endpoints)]
        return CliRunner().invoke(cli.main, [*map(str, arguments), *trackers])

    return run


def test_who_follows_a_tag_gets_what_it_means_and_nothing_else(own_machine: Path) -> None:
    """Broken: a version goes to production that nobody released, or a release does not arrive."""
    copy = own_machine / "copy"
    with Cluster.up(1, data_dir=own_machine / "trackers") as cluster:
        run = words(cluster)
        with Peer(cluster.endpoints) as peer, TrackerClient(cluster.endpoints) as client:
            sources = [os.urandom(30_000) for _ in range(3)]
            for number, data in enumerate(sources):
                (own_machine / f"source-{number}").write_bytes(data)
                peer.share(own_machine / f"source-{number}", "models/a", replace=True)
            changes = client.watch("models/")
            trackers = ",".join(cluster.endpoints)
            with following(trackers, "models/a@stable", "-o", copy) as follow:
                for version in (2, 1):
                    assert client.tag("models/a", "stable", version).changed
                    assert told(follow, "version")["version"] == version
                    told(follow, "done")
                    assert copy.read_bytes() == sources[version - 1]
            with pytest.raises(Conflict):
                client.tag("models/a", "stable", 3, expected=2)

            shown = run("tag", "models/a", "stable", "--expect", "1")
            assert shown.output == "models/a@stable is v3, before v1\n"
            assert run("tag", "models/a@stable", "next").output == "models/a@next is v3\n"
            assert "next=v3 stable=v3" in run("ls").output
            (listed,) = json.loads(run("ls", "--json").output)
            assert listed["tags"] == {"next": 3, "stable": 3}
            assert run("get", "models/a@next", "-o", own_machine / "next").exit_code == 0
            assert (own_machine / "next").read_bytes() == sources[2]
            gone = json.loads(run("untag", "models/a@next", "--json").output)
            assert (gone["tag"], gone["version"], gone["tags"]) == ("next", 3, {"stable": 3})
            assert run("untag", "models/a@next").exit_code == 1
            assert run("retention").output.splitlines() == [
                "versions  up to 16 of a name",
                "unsourced  shown never",
                "unsourced  removed never",
            ]
            assert "the newest 2 of a name" in run("retention", "--versions", 2).output
            assert (
                "removed after 3600 s" in run("retention", "--remove-unsourced-after", 3600).output
            )
            assert json.loads(run("retention", "--json").output) == {
                "versions_kept": 2,
                "unsourced_after_s": 0.0,
                "remove_unsourced_after_s": 3600.0,
            }
            assert run("retention", "--no-versions").exit_code == 0
            assert client.retention().versions_kept == 0
            with changes:
                seen = [next(changes) for _ in range(5)]
            assert [(c.kind, c.file.version, c.tag) for c in seen] == [
                ("tagged", 2, "stable"),
                ("tagged", 1, "stable"),
                ("tagged", 3, "stable"),
                ("tagged", 3, "next"),
                ("untagged", 3, "next"),
            ]


BOTH = ("retention", "--versions", "1", "--no-versions")


@pytest.mark.parametrize(
    "arguments",
    [("tag", "a@v3", "v3"), ("tag", "a@", "stable"), ("untag", "a"), ("untag", "a@v1"), BOTH],
    ids=" ".join,
)
def test_what_is_no_tag_is_wrong_use(arguments: tuple[str, ...]) -> None:
    """Broken: a tracker is asked for what cannot be, or a version is taken for a tag."""
    assert CliRunner().invoke(cli.main, arguments).exit_code == 2


def test_a_version_is_nothing_to_follow() -> None:
    """Broken: ``follow a@v1`` waits for ever for what never comes."""
    assert (check_followed("a"), check_followed("a@stable")) == ("a", "a@stable")
    with pytest.raises(BadRequest, match="a@v1 never means another version"):
        check_followed("a@v1")


def test_a_tag_left_out_is_named() -> None:
    """Broken: who forgets the tag is told about a name of no bytes."""
    shown = CliRunner().invoke(cli.main, ["untag", "models/a", "--trackers", "127.0.0.1:1"])
    assert shown.exit_code == 2
    assert "'models/a' names no tag, expected NAME@TAG" in shown.output
