"""The word ``node``: one tracker in the foreground, for systemd, containers and ``up``."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from tracker_raft import log_format as logs
from tracker_raft.cli_join import addresses_of, ask_cluster
from tracker_raft.config import Address, Member, NodeConfig, RaftTiming
from tracker_raft.errors import BadRequest, P2PError
from tracker_raft.terminal import exit_status, given_path

log = logging.getLogger("tracker_raft.node")

ORPHAN_GRACE_S = 5.0
"""A node whose parent has gone may stop cleanly for this long."""
EVERYWHERE = frozenset({"0.0.0.0", "::"})
"""To listen at: every address of the machine. Nobody can connect there."""


@click.command(short_help="Run one tracker in the foreground.")
@click.option(
    "--id",
    "node",
    default="n1",
    show_default=True,
    envvar="P2P_NODE_ID",
    metavar="ID",
    help="Its id; it keeps it when its address changes.",
)
@click.option(
    "--data-dir",
    required=True,
    envvar="P2P_NODE_DATA_DIR",
    type=given_path,
    metavar="DIR",
    help="Where it keeps its data.",
)
@click.option(
    "--listen",
    default="127.0.0.1:7000",
    show_default=True,
    envvar="P2P_NODE_LISTEN",
    metavar="HOST:PORT",
    help="Where it listens for clients.",
)
@click.option(
    "--raft-listen",
    envvar="P2P_NODE_RAFT_LISTEN",
    metavar="HOST:PORT",
    help="Where it listens for the other trackers. Default: its own --member address, or the port "
    "behind that of --listen.",
)
@click.option(
    "--member",
    "members",
    multiple=True,
    envvar="P2P_NODE_MEMBERS",
    metavar="ID=HOST:PORT",
    help="A voter and where the others reach it; once for each, itself included. "
    "In the environment divided by spaces. Default: it is alone.",
)
@click.option(
    "--join",
    envvar="P2P_NODE_JOIN",
    metavar="HOST:PORT,...",
    help="Wait to be made a member of the cluster with these trackers, by 'add-node'; with an "
    "empty directory. --member is then its own address alone, if the others need another one.",
)
@click.option(
    "--advertise",
    envvar="P2P_NODE_ADVERTISE",
    metavar="HOST:PORT",
    help="The client address it tells others. Default: that of --listen.",
)
@click.option(
    "--cluster",
    default="p2p",
    show_default=True,
    envvar="P2P_NODE_CLUSTER",
    metavar="NAME",
    help="Trackers of a cluster with another name are refused.",
)
@click.option(
    "--insecure",
    is_flag=True,
    envvar="P2P_NODE_INSECURE",
    help="Listen on other addresses than loopback; nobody is authenticated.",
)
@click.option(
    "--election-timeout",
    "election_timeout_ms",
    type=float,
    default=RaftTiming().election_timeout_s * 1000,
    show_default=True,
    envvar="P2P_NODE_ELECTION_TIMEOUT",
    metavar="MS",
    help="A leader silent for this long is replaced. The same on all trackers; well above the "
    "round trip between them and a sync of their disks together. 50 to 60000.",
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LOG_LEVELS),
    default="info",
    show_default=True,
    envvar="P2P_NODE_LOG_LEVEL",
    help="What it says on stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    default="text",
    show_default=True,
    envvar="P2P_NODE_LOG_FORMAT",
    help="Lines for people, or one JSON object a line.",
)
@click.option("--parent-pipe", type=int, hidden=True)
def node(
    node: str,
    data_dir: Path,
    listen: str,
    raft_listen: str | None,
    members: tuple[str, ...],
    join: str | None,
    advertise: str | None,
    cluster: str,
    insecure: bool,
    election_timeout_ms: float,
    log_level: str,
    log_format: str,
    parent_pipe: int | None,
) -> None:
    """Run one tracker in the foreground until SIGTERM or Ctrl-C, which hand leadership over first.

    \b
    Examples:
      p2p-cluster node --id n1 --data-dir /var/lib/p2p/n1 \\
          --listen 127.0.0.1:7000 --member n1=127.0.0.1:7001 \\
          --member n2=127.0.0.1:7011 --member n3=127.0.0.1:7021

    \b
    systemd: one unit per node
      [Service]
      ExecStart=p2p-cluster node --id n1 --data-dir /var/lib/p2p/n1 --member ...
      Restart=always

    \b
    One more node of a running cluster: start it, then add it
      p2p-cluster node --id n4 --data-dir /var/lib/p2p/n4 --listen 127.0.0.1:7030 \\
          --join 127.0.0.1:7000
      p2p-cluster add-node 127.0.0.1:7030 --trackers 127.0.0.1:7000

    \b
    Containers: bind everywhere, advertise the name others resolve
      p2p-cluster node --id n1 --data-dir /data --insecure \\
          --listen 0.0.0.0:7000 --advertise tracker-1:7000 --raft-listen 0.0.0.0:7001 \\
          --member n1=tracker-1:7001 --member n2=tracker-2:7001 --member n3=tracker-3:7001
    """
    try:
        config = node_config(
            node, data_dir, listen, raft_listen, members, advertise, cluster, insecure
        )
        config = replace(config, timing=RaftTiming(election_timeout_s=election_timeout_ms / 1000))
        trackers = None if join is None else addresses_of(join)
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    logs.set_up(log_level, log_format, config.node)
    if parent_pipe is not None:
        end_with_parent(parent_pipe)
    if trackers is not None:
        config = _joining(config, trackers)
    _run(config, log_format)


def _run(config: NodeConfig, log_format: str) -> None:
    # Imported here: it brings the whole consensus side, which no other word of the line needs.
    from tracker_raft.node import run

    try:
        run(config)
    except P2PError as error:
        if log_format == "text":
            raise
        log.critical("%s", error)
        raise SystemExit(exit_status(error)) from None


def _joining(config: NodeConfig, trackers: Sequence[Address]) -> NodeConfig:
    """The settings of a node that waits to be made a member of the cluster of ``trackers``."""
    name, others = ask_cluster(trackers, config.data_dir)
    others = tuple(member for member in others if member.node != config.node)
    return replace(config, joining=True, cluster=name, members=(*config.members, *others))


def node_config(
    node: str,
    data_dir: Path,
    listen: str,
    raft_listen: str | None,
    members: tuple[str, ...],
    advertise: str | None,
    cluster: str,
    insecure: bool,
) -> NodeConfig:
    """The settings meant by the options. Raises :class:`BadRequest`."""
    client_bind = Address.parse(listen)
    advertised = Address.parse(advertise) if advertise else client_bind
    if advertised.host in EVERYWHERE:
        raise BadRequest(f"nobody can reach a tracker at {advertised}: name it with --advertise")
    raft_bind = Address.parse(raft_listen) if raft_listen else None
    voters = tuple(Member.parse(text) for text in members)
    if not voters:
        behind = str(Address(client_bind.host, client_bind.port + 1))
        raft_bind = raft_bind or Address.parse(behind)
        host = advertised.host if raft_bind.host in EVERYWHERE else raft_bind.host
        voters = (Member(node, Address(host, raft_bind.port)),)
    nowhere = next((voter for voter in voters if voter.raft.host in EVERYWHERE), None)
    if nowhere is not None:
        raise BadRequest(
            f"nobody can reach a tracker at {nowhere.raft}: --member {nowhere.node}= wants an "
            f"address that the others reach, --raft-listen the one to listen on"
        )
    raft_bind = raft_bind or next((voter.raft for voter in voters if voter.node == node), None)
    if raft_bind is None:
        ids = ", ".join(voter.node for voter in voters)
        raise BadRequest(f"members {ids}: this node, {node!r}, is not among them")
    return NodeConfig(
        node=node,
        data_dir=data_dir.absolute(),
        members=voters,
        client_bind=client_bind,
        raft_bind=raft_bind,
        client_advertised=advertised,
        cluster=cluster,
        insecure=insecure,
    )


def end_with_parent(pipe: int) -> None:
    """Stop this process when the other end of ``pipe``, a file descriptor, is closed.

    By SIGTERM, as anyone would stop it; without further ado when that takes too long.
    """

    def watch() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_S)
        os._exit(1)

    try:
        os.set_inheritable(pipe, False)
    except OSError as error:
        raise click.UsageError(f"--parent-pipe {pipe}: {error.strerror}") from None
    threading.Thread(target=watch, name="parent-pipe", daemon=True).start()
