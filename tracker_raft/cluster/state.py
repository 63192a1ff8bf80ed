"""What a cluster on this machine leaves on disk: its description and its processes' numbers.

::

    DATA_DIR/cluster.json    the cluster's name and the addresses of its nodes; written once
    DATA_DIR/launch.json     how its nodes were told to speak when it was last brought up
    DATA_DIR/n1/             what node n1 keeps; only that process writes there
    DATA_DIR/n1.log          what node n1 said
    DATA_DIR/n1.pid          which process it is: number and time of birth

Rules
-----
* ``cluster.json`` decides where every node listens; it is never changed after it was written, so
  a cluster comes back under the addresses its clients know.
* A process number alone says nothing: the system gives it to another process after a while. A
  process is *ours* only if its time of birth is the recorded one, and nothing else is signalled.
* Every file appears complete or not at all (written beside and renamed).
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tracker_raft.config import NODE_ID, Address
from tracker_raft.errors import BadRequest, Damaged, LocalError

LAYOUT_FORMAT = 1
LAYOUT_NAME = "cluster.json"
LAUNCH_NAME = "launch.json"


def write_whole(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds all of it or what it held before."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no such file. Raises :class:`Damaged`."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise Damaged(f"{path} is not JSON: {error}; nothing was changed") from None
    if not isinstance(value, dict):
        raise Damaged(f"{path} holds {type(value).__name__}, expected an object")
    return value


@dataclass(frozen=True, slots=True)
class NodePlace:
    """Where one node listens: for clients and for the other nodes."""

    node: str
    endpoint: Address
    raft: Address
    joined: bool = False
    """It was added to a cluster that ran."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The description of a cluster: its name and its nodes in order."""

    cluster: str
    created: str
    """When, in ISO 8601 and UTC; for people."""
    nodes: tuple[NodePlace, ...]

    @property
    def endpoints(self) -> list[str]:
        """Client addresses of all nodes, in order."""
        return [str(place.endpoint) for place in self.nodes]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(place.node for place in self.nodes)

    def save(self, data_dir: Path) -> None:
        """Write it into ``data_dir``, which must exist. Raises :class:`OSError`."""
        value = {
            "format": LAYOUT_FORMAT,
            "cluster": self.cluster,
            "created": self.created,
            "nodes": [
                {"id": place.node, "endpoint": str(place.endpoint), "raft": str(place.raft)}
                | ({"joined": True} if place.joined else {})
                for place in self.nodes
            ],
        }
        write_whole(data_dir / LAYOUT_NAME, json.dumps(value, indent=2) + "\n")

    @classmethod
    def load(cls, data_dir: Path) -> Layout | None:
        """Read it from ``data_dir``; None if no cluster is there. Raises :class:`Damaged`."""
        path = data_dir / LAYOUT_NAME
        value = read_json(path)
        if value is None:
            return None
        if value.get("format") != LAYOUT_FORMAT:
            raise Damaged(
                f"{path} has format {value.get('format')!r}, this version reads {LAYOUT_FORMAT}"
            )
        try:
            nodes = tuple(
                NodePlace(
                    str(row["id"]),
                    Address.parse(row["endpoint"]),
                    Address.parse(row["raft"]),
                    row.get("joined") is True,
                )
                for row in value["nodes"]
            )
            layout = cls(str(value["cluster"]), str(value.get("created", "")), nodes)
        except (KeyError, TypeError, AttributeError, BadRequest) as error:
            raise Damaged(f"{path} is not a cluster's description: {error!r}") from None
        # Ids become file names below, so they are checked like everything read from outside.
        if not nodes or not all(NODE_ID.fullmatch(node) for node in layout.ids):
            raise Damaged(f"{path} names the nodes {layout.ids}, expected at least one proper id")
        return layout


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """Which process it is: its number and its birth."""

    pid: int
    born: str
    """Compared, never computed with. Ticks since boot and the boot's id, not a wall-clock time:
    that would change with every correction of the clock, and a node would be taken for dead."""

    @classmethod
    def of(cls, pid: int) -> ProcessMark | None:
        """The mark of a process that lives now; None if there is none of that number."""
        born = _birth(pid)
        return None if born is None else cls(pid, born)

    def process(self) -> psutil.Process | None:
        """The very process, or None if it is gone, a zombie, or its number is another's now."""
        try:
            process = psutil.Process(self.pid)
        except psutil.NoSuchProcess:
            return None
        # The birth is read after the handle was made: psutil refuses to signal another process
        # that takes the number from here on.
        return process if _birth(self.pid) == self.born else None

    def save(self, path: Path) -> None:
        write_whole(path, json.dumps({"pid": self.pid, "born": self.born}) + "\n")

    @classmethod
    def load(cls, path: Path) -> ProcessMark | None:
        """Read it; None if there is no such file or it is not one (then nobody is signalled)."""
        try:
            value = read_json(path)
        except Damaged:
            return None
        if value is None:
            return None
        pid, born = value.get("pid"), value.get("born")
        if type(pid) is not int or pid <= 1 or type(born) is not str:
            return None
        return cls(pid, born)


def _birth(pid: int) -> str | None:
    """When a living process was born, as text to compare; None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return _birth_elsewhere(pid)
    except ProcessLookupError:
        return None
    # The second field is the program's name in parentheses and may hold anything.
    state, *fields = stat.rpartition(")")[2].split()
    threads, born_ticks = int(fields[16]), fields[18]
    # The first thread is a zombie while others still end, and they hold ports and locks till then.
    return None if state in "ZX" and threads <= 1 else f"{boot}:{born_ticks}"


def _birth_elsewhere(pid: int) -> str | None:
    """The same where there is no ``/proc``."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None


def require_directory(data_dir: Path) -> bool:
    """Make ``data_dir`` if need be; whether it was made. :class:`LocalError` if it cannot be."""
    try:
        made = not data_dir.exists()
        data_dir.mkdir(parents=True, exist_ok=True)
        return made
    except OSError as error:
        exists = isinstance(error, FileExistsError)
        reason = "it is not a directory" if exists else error.strerror or error
        raise LocalError(
            f"data directory {data_dir} cannot be used: {reason}; nothing was started"
        ) from error
