"""The processes of a cluster's nodes: start, find, signal, wait. Which node and when is not here.

Two kinds of nodes:

* *tied* ones end with the process that started them, however that ends. They hold the read end
  of a pipe whose write end only their parent has: when it is gone they read the end of file
  (``--parent-pipe``). The kernel's parent-death signal was rejected: it fires when the *thread*
  that started the node ends. A stopped node cannot read; for it the own process group within
  the parent's session matters, which the kernel wakes and hangs up when it is orphaned.
* *detached* ones get a session of their own and outlive everyone.

Other processes may signal the same nodes (``p2p-cluster kill`` beside ``up``), so who lives is
always looked up, never remembered.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tracker_raft.cluster.state import NodePlace, ProcessMark
from tracker_raft.cluster.status import NodeReport
from tracker_raft.errors import LocalError

LOG_BYTES_MAX = 16 * 1024 * 1024
"""A longer log is set aside as ``.log.1`` when its node is started."""
GONE_POLL_S = 0.005
KILL_TIMEOUT_S = STOP_TIMEOUT_S = 10.0
"""SIGKILL and SIGSTOP work at once unless the process hangs in the kernel."""


class Processes:
    """The processes of the nodes of one data directory."""

    def __init__(self, data_dir: Path, *, tied: bool) -> None:
        self._data_dir = data_dir
        self._tied = tied
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._pipe: tuple[int, int] | None = None

    def log_path(self, node: str) -> Path:
        return self._data_dir / f"{node}.log"

    def mark_path(self, node: str) -> Path:
        return self._data_dir / f"{node}.pid"

    def find(self, node: str) -> psutil.Process | None:
        """The process of ``node``; None when it does not run."""
        child = self._children.get(node)
        if child is not None:
            child.poll()  # reaps it; which process the node is now, the mark alone says
        mark = ProcessMark.load(self.mark_path(node))
        if mark is None or (child and child.pid == mark.pid and child.returncode is not None):
            return None
        return mark.process()

    def report(self, place: NodePlace) -> NodeReport:
        """The process side of a report; what the node says is not asked here."""
        process = self.find(place.node)
        if process is None:
            return NodeReport(place, None)
        return NodeReport(place, process.pid, _is_stopped(process))

    def exit_status(self, node: str) -> int | None:
        """How the node ended; None if it did not or was not started here."""
        child = self._children.get(node)
        return None if child is None else child.poll()

    def spawn(self, node: str, command: Sequence[str]) -> None:
        """Start ``node``; it must not run. Raises :class:`LocalError` if it cannot be started."""
        command = list(command)
        tied: tuple[int, ...] = ()
        if self._tied:
            tied = (self._parent_pipe(),)
            command += ["--parent-pipe", str(tied[0])]
        log_path = self.log_path(node)
        try:
            if log_path.exists() and log_path.stat().st_size > LOG_BYTES_MAX:
                log_path.replace(log_path.with_suffix(".log.1"))
            with log_path.open("ab") as log:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=tied,
                    process_group=0 if self._tied else None,
                    start_new_session=not self._tied,
                    env=child_environment(),
                )
        except OSError as error:
            raise LocalError(f"{node} could not be started: {error}") from error
        self._children[node] = child
        try:
            mark = ProcessMark.of(child.pid)
            if mark is not None:
                mark.save(self.mark_path(node))
        except BaseException as error:
            # Without its mark nobody would find it again.
            child.kill()
            child.wait()
            if isinstance(error, OSError):
                raise LocalError(f"{node} could not be started: {error}") from error
            raise

    def _parent_pipe(self) -> int:
        """The read end; both ends stay open here until :meth:`close`."""
        if self._pipe is None:
            self._pipe = os.pipe()
        return self._pipe[0]

    def signal(self, node: str, number: signal.Signals) -> bool:
        """Send a signal; False if the node does not run. :class:`LocalError` if not allowed."""
        process = self.find(node)
        if process is None:
            return False
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            raise LocalError(
                f"{node} (pid {process.pid}) may not be signalled: another user's; nothing was done"
            ) from None
        return True

    def pause(self, node: str) -> bool:
        """SIGSTOP and wait until it stands still; False if it does not run."""
        if not self.signal(node, signal.SIGSTOP):
            return False
        until = time.monotonic() + STOP_TIMEOUT_S
        while (process := self.find(node)) is not None and not _is_stopped(process):
            if time.monotonic() >= until:
                raise LocalError(f"{node} still runs {STOP_TIMEOUT_S} s after SIGSTOP")
            time.sleep(GONE_POLL_S)
        return process is not None

    def wait_gone(self, node: str, timeout_s: float) -> bool:
        """Wait until the process has ended; False if it still runs after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        while self.find(node) is not None:
            if time.monotonic() >= until:
                return False
            time.sleep(GONE_POLL_S)
        return True

    def kill(self, node: str) -> None:
        """SIGKILL and wait; a node that does not run is left so. Raises :class:`LocalError`."""
        if self.signal(node, signal.SIGKILL) and not self.wait_gone(node, KILL_TIMEOUT_S):
            raise LocalError(f"{node} still runs {KILL_TIMEOUT_S} s after SIGKILL")

    def terminate(self, nodes: Sequence[str], grace_s: float) -> None:
        """SIGTERM to all, paused ones woken; SIGKILL to who still runs ``grace_s`` later.

        An interruption (Ctrl-C again) ends the grace: nothing is left running.
        """
        until = time.monotonic() + grace_s
        try:
            for node in nodes:
                if self.signal(node, signal.SIGTERM):
                    self.signal(node, signal.SIGCONT)
            for node in nodes:
                self.wait_gone(node, until - time.monotonic())
        finally:
            for node in nodes:
                self.kill(node)

    def forget(self, node: str) -> None:
        """Drop the mark of a node that was stopped on purpose."""
        self.mark_path(node).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the pipe and of the children: tied ones end, detached ones run on."""
        if self._pipe is not None:
            for end in self._pipe:
                os.close(end)
            self._pipe = None
        for child in self._children.values():
            if child.poll() is None:
                # Not ours to wait for any more; without this Popen complains when it is dropped.
                child.returncode = 0
        self._children.clear()


def _is_stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def child_environment() -> dict[str, str]:
    """Ours, such that a child runs the same code even from a checkout that is not installed."""
    environment = dict(os.environ)
    root = Path(__file__).parent.parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        inherited = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{inherited}" if inherited else str(root)
    return environment


def log_tail(path: Path, lines: int, bytes_max: int = 64 * 1024) -> list[str]:
    """The last lines of a log, at most ``bytes_max`` bytes of them; none if there is no log."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - bytes_max))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-lines:] if lines > 0 else []
