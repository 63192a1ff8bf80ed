"""Machines of their own for the nodes of a cluster: a network namespace each, and cuts in between.

::

    with Network(["n1", "n2", "n3"]) as network, tracker_cluster(network, folder) as cluster:
        client = TrackerClient(cluster.endpoints)
        leader = cluster.leader()
        network.cut(leader)                  # from the other nodes, silently, both ways
        network.cut(leader, client=True)     # and from the client, which is this process
        network.heal()

Rules
-----
* A cut is silent: packets are dropped where the cables meet, so nobody sees a reset, the end of a
  connection or a refusal. That is what a dead switch or a lost machine looks like, and what a
  killed process never does: its kernel says good-bye for it.
* One cut is one transaction of the packet filter: there is no moment when half of it holds.
* Nothing is left behind, also when this process is killed: a namespace lives as long as the process
  that holds it (or runs in it), and that one ends with its input; a cable goes with either of its
  ends. Nothing has a name in ``/run/netns``, and this machine's own packet filter is not touched.

How it is wired: each node is in a namespace of its own, a cable (veth) leads from each to the hub,
a further namespace with a bridge and the packet filter, and one more from the hub to this machine's
own namespace, where the client is. Addresses are of 198.18.0.0/15, set aside for benchmarks.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

from tracker_raft.cluster import Cluster
from tracker_raft.cluster.launch import NODE_COMMAND, Crew, Launch, locked
from tracker_raft.cluster.local import RESTART_TIMEOUT_S
from tracker_raft.cluster.state import Layout, NodePlace
from tracker_raft.config import Address

CLIENT = "client"
"""The name of this process's end among those that a cut can name."""
NODES_MAX = 9
NODE_NAME_LENGTH_MAX = 10
"""It is the name of a cable's end in the hub, of which the kernel allows 15 characters."""
SUBNETS = list(ipaddress.ip_network("198.18.0.0/15").subnets(new_prefix=24))
SUBNET_TRIES = 20
CLIENT_PORT, RAFT_PORT = 7000, 7001
COMMAND_TIMEOUT_S = 20.0
TOOLS = ("ip", "nft", "nsenter", "unshare")

RULES = """\
table bridge cuts {
  set dropped { typeof ip saddr . ip daddr; }
  chain arriving {
    type filter hook prerouting priority 0; policy accept;
    ip saddr . ip daddr @dropped drop
  }
}
"""
"""For the bridge. Not its ``forward`` hook, where one of the kernels tried saw no packet at all."""


def why_unavailable() -> str | None:
    """Why no :class:`Network` can be made here, in words for a reader; None when one can be."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in TOOLS:
        if shutil.which(tool) is None:
            packages = {"ip": "iproute2", "nft": "nftables"}
            return f"no {tool} in PATH (Debian: {packages.get(tool, 'util-linux')})"
    try:
        _run(["unshare", "--net", "nft", "-f", "-"], RULES)
    except OSError as error:
        return f"network namespaces cannot be made here: {error}"
    return None


def _run(command: Sequence[str], given: str = "") -> str:
    """Run a tool of the system and return what it printed. OSError with its words if it fails."""
    try:
        run = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} took more than {COMMAND_TIMEOUT_S} s") from None
    if run.returncode != 0:
        raise OSError(f"{' '.join(command)}: {run.stderr.strip() or run.returncode}")
    return run.stdout


class Namespace:
    """A network namespace, there until :meth:`close` or the end of this process."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,  # Ctrl-C is for us: it must outlive the commands that clean up
        )
        assert self._holder.stdin is not None and self._holder.stdout is not None
        try:
            self._holder.stdin.write(b"\n")
            if not self._holder.stdout.read(1):  # its echo: it is in the namespace by now
                raise OSError(f"unshare --net ended with status {self._holder.wait()}")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._holder.pid

    @property
    def enter(self) -> tuple[str, ...]:
        """What to put before a command that is to run inside; its process number stays the same."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net")

    def ip(self, *lines: str) -> None:
        """Run lines of ``ip -batch`` inside. Raises OSError with the words of the first refused."""
        _run([*self.enter, "ip", "-batch", "-"], "\n".join(lines) + "\n")

    def close(self) -> None:
        """Let it go: it ends as soon as no process runs in it any more."""
        with suppress(OSError):
            self._holder.kill()
        self._holder.communicate()


class Network:
    """Context manager: a namespace for each of ``nodes``, joined at a hub that can drop packets.

    Raises OSError, with what the system said, when it cannot be made; then nothing is left of it.
    For one thread at a time.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        if not 1 <= len(set(nodes)) == len(nodes) <= NODES_MAX or CLIENT in nodes:
            raise ValueError(f"found nodes {nodes}, expected 1 to {NODES_MAX} different names")
        if long := [node for node in nodes if len(node) > NODE_NAME_LENGTH_MAX]:
            raise ValueError(f"names {long} have more than {NODE_NAME_LENGTH_MAX} characters")
        self.nodes = tuple(nodes)
        self.address: dict[str, str] = {}
        """Of every node and of :data:`CLIENT`, without a port."""
        self._dropped: set[tuple[str, str]] = set()
        self._spaces: dict[str, Namespace] = {}
        self._hub: Namespace | None = None
        self._cable: str | None = None

    # -- made and let go --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _make(self) -> None:
        hub = self._hub = Namespace()
        _run([*hub.enter, "nft", "-f", "-"], RULES)
        hub.ip("link set lo up", "link add hub type bridge", "link set hub up")
        subnet = self._connect_client(hub)
        for node, address in zip(self.nodes, itertools.islice(subnet.hosts(), 9), strict=False):
            space = self._spaces[node] = Namespace()
            self.address[node] = str(address)
            hub.ip(
                f"link add at-{node} type veth peer name eth0 netns {space.pid}",
                f"link set at-{node} master hub up",
            )
            space.ip(
                "link set lo up",
                f"addr add {address}/{subnet.prefixlen} dev eth0",
                "link set eth0 up",
            )

    def _connect_client(self, hub: Namespace) -> ipaddress.IPv4Network:
        """Lay the cable to this machine's own namespace and return the addresses that are ours.

        The cable is named by the number of the subnet, and the kernel allows each name once: so
        two networks at a time never share addresses.
        """
        problem = None
        for number in random.SystemRandom().sample(range(len(SUBNETS)), SUBNET_TRIES):
            subnet, cable = SUBNETS[number], f"p2p-hub{number}"
            assert isinstance(subnet, ipaddress.IPv4Network)
            try:
                _run(f"ip link add {cable} type veth peer name at-client netns {hub.pid}".split())
            except OSError as error:
                problem = error
                continue
            self._cable = cable
            address = subnet.broadcast_address - 1
            hub.ip("link set at-client master hub up")
            _run(f"ip addr add {address}/{subnet.prefixlen} dev {cable}".split())
            _run(f"ip link set {cable} up".split())
            self.address[CLIENT] = str(address)
            return subnet
        raise OSError(f"no cable could be laid in {SUBNET_TRIES} tries: {problem}")

    def close(self) -> None:
        """Take everything down. Processes that still run inside keep their own namespace only."""
        if self._cable is not None:
            with suppress(OSError):  # gone with its other end
                _run(["ip", "link", "del", self._cable])
            self._cable = None
        for space in (*self._spaces.values(), *filter(None, [self._hub])):
            space.close()
        self._spaces.clear()
        self._hub = None

    # -- what one does with it --------------------------------------------------------------------

    def enter(self, node: str) -> tuple[str, ...]:
        """What to put before a command that is to run on ``node``'s machine."""
        return self._spaces[node].enter

    @property
    def dropped(self) -> frozenset[tuple[str, str]]:
        """Who is not heard by whom now: (sender, receiver)."""
        return frozenset(self._dropped)

    def cut(
        self,
        node: str,
        from_: Iterable[str] | None = None,
        *,
        outgoing: bool = True,
        incoming: bool = True,
        client: bool = False,
    ) -> None:
        """From now on drop what ``node`` and the nodes of ``from_`` send to each other.

        ``from_``: nodes or :data:`CLIENT`; None: all other nodes. ``client``: this process as
        well. ``outgoing`` or ``incoming`` False: only the other direction is cut, as ``node`` sees
        it. Adds to what is cut already; holds on return.
        """
        others = {*(set(self.nodes) - {node} if from_ is None else from_)}
        others |= {CLIENT} if client else set()
        pairs = {(node, other) for other in others if outgoing}
        self._drop(self._dropped | pairs | {(other, node) for other in others if incoming})

    def heal(self, node: str | None = None) -> None:
        """Drop nothing any more of what ``node`` sends or is sent; None: nothing at all."""
        self._drop({pair for pair in self._dropped if node is not None and node not in pair})

    def _drop(self, pairs: set[tuple[str, str]]) -> None:
        assert self._hub is not None, "only while it is made"
        parts = [f"{self.address[a]} . {self.address[b]}" for a, b in sorted(pairs)]
        lines = ["flush set bridge cuts dropped"]
        if parts:
            lines.append(f"add element bridge cuts dropped {{ {', '.join(parts)} }}")
        _run([*self._hub.enter, "nft", "-f", "-"], "\n".join(lines) + "\n")
        self._dropped = set(pairs)

    def __repr__(self) -> str:
        cuts = ", ".join(f"{a}-/->{b}" for a, b in sorted(self._dropped))
        return f"<Network {' '.join(self.nodes)}{': ' if cuts else ''}{cuts}>"


# -- trackers on it -------------------------------------------------------------------------------


class _Crew(Crew):
    """Starts each node on its own machine."""

    def __init__(self, network: Network, data_dir: Path, layout: Layout, launch: Launch) -> None:
        super().__init__(data_dir, layout, launch)
        self._network = network
        self._command = launch.command

    def start(self, place: NodePlace) -> None:
        # They listen beyond loopback, where nobody authenticates: hence --insecure.
        command = (*self._network.enter(place.node), *self._command, "--insecure")
        self.launch = replace(self.launch, command=command)
        super().start(place)


class NetworkCluster(Cluster):
    """A :class:`Cluster` whose nodes are in the namespaces of :attr:`network`.

    A node that is cut off from the client answers no question, and looks silent in a report.
    """

    def __init__(self, network: Network, crew: Crew) -> None:
        super().__init__(crew)
        self.network = network

    def restart(self, node: str, wait: bool = True, timeout_s: float = RESTART_TIMEOUT_S) -> None:
        """As :meth:`Cluster.restart`; its ports cannot be tried from here."""
        place = self._place(node)
        until = time.monotonic() + timeout_s
        with locked(self.data_dir, timeout_s):
            self._processes.kill(node)
            self._crew.start(place)
        if wait:
            self._crew.wait_serving((node,), until)


@contextmanager
def tracker_cluster(
    network: Network,
    data_dir: Path,
    *,
    timeout_s: float = 30.0,
    log_level: str = "info",
    command: Sequence[str] = NODE_COMMAND,
) -> Iterator[NetworkCluster]:
    """Start a tracker on every node of ``network`` and wait until they serve; stop them on leaving.

    ``data_dir``, made if need be: node X keeps its data in X and its log in X.log there; what it
    holds of an earlier cluster is used again. ``command``: instead of ``python -m tracker_raft
    node``. Raises :class:`~tracker_raft.errors.LocalError` when they do not come to serve.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    layout = Layout(
        "p2p-namespaces",
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        tuple(
            NodePlace(node, Address(host, CLIENT_PORT), Address(host, RAFT_PORT))
            for node, host in network.address.items()
            if node != CLIENT
        ),
    )
    layout.save(data_dir)
    launch = Launch(tied=True, log_level=log_level, command=command)
    crew = _Crew(network, data_dir, layout, launch)
    cluster = NetworkCluster(network, crew)
    with cluster:
        crew.start_all(time.monotonic() + timeout_s)
        yield cluster
