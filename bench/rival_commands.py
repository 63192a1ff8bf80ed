"""Rivals of ``download`` that are a server and a command: nginx with curl or aria2, rsync.

None of them but rsync (which compares a checksum of the whole file) verifies what came. Counted
from before the first command starts until the last has ended: their start, some 10 ms, is theirs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import harness
from bench.ends import HOST
from bench.memory import WarmMemory

STARTED_S = 10.0

NGINX = """daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/err warn; {user}
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; tcp_nopush on; sendfile_max_chunk 2m;
client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; open_file_cache max=20000;
server {{ listen {host}:{port} backlog=1024; root {root}; keepalive_requests 100000; }} }}
"""
RSYNCD = """use chroot = no
{user}
[d]
path = {root}
read only = yes
"""


def _nginx(folder: Path, root: Path, port: int) -> list[str]:
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, user=user, host=HOST, port=port, root=root))
    return ["nginx", "-e", f"{folder}/err", "-c", str(config)]


def _rsyncd(folder: Path, root: Path, port: int) -> list[str]:
    user = "uid = root\ngid = root" if os.geteuid() == 0 else ""
    config = folder / "rsyncd.conf"
    config.write_text(RSYNCD.format(user=user, root=root))
    place = [f"--address={HOST}", f"--port={port}", f"--config={config}"]
    return ["rsync", "--daemon", "--no-detach", *place]


def _curl(port: int, name: str, out: Path) -> list[str]:
    return ["curl", "-sf", "-o", str(out), f"http://{HOST}:{port}/{name}"]


def _aria2(port: int, name: str, out: Path) -> list[str]:
    command = ["aria2c", "-q", "--no-conf", "--file-allocation=none", "--min-split-size=1M"]
    place = ["-x2", "-s2", "-d", str(out.parent), "-o", out.name]
    return [*command, *place, f"http://{HOST}:{port}/{name}"]


def _rsync(port: int, name: str, out: Path) -> list[str]:
    return ["rsync", "-rW", f"rsync://{HOST}:{port}/d/{name}", str(out)]


@dataclass(frozen=True, slots=True)
class Rival:
    """``server(folder, root, port)`` serves the files below ``root``, ``client(port, name, out)``
    fetches one."""

    name: str
    binaries: tuple[str, ...]
    package: str
    server: Callable[[Path, Path, int], list[str]]
    client: Callable[[int, str, Path], list[str]]

    def absent(self) -> str | None:
        """Why it cannot run here; None when it can."""
        missing = [name for name in self.binaries if shutil.which(name) is None]
        return f"{', '.join(missing)} not found (Debian: {self.package})" if missing else None


RIVALS = (
    Rival("curl", ("nginx", "curl"), "nginx-light, curl", _nginx, _curl),
    Rival("aria2", ("nginx", "aria2c"), "nginx-light, aria2", _nginx, _aria2),
    Rival("rsync", ("rsync",), "rsync", _rsyncd, _rsync),
)


class Server:
    """A server that listens."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def cpu_s(self) -> float:
        """Of it and its children, those that ended included."""
        top = psutil.Process(self.process.pid)
        times = [one.cpu_times() for one in (top, *top.children(recursive=True))]
        ended = times[0].children_user + times[0].children_system
        return float(sum(one.user + one.system for one in times) + ended)


@contextmanager
def serving(rival: Rival, folder: Path, root: Path) -> Iterator[Server]:
    """The server of ``rival``; its own files go into ``folder``."""
    folder.mkdir()
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(rival.server(folder, root, port), stdin=subprocess.DEVNULL)
    try:
        _wait_until_it_listens(process, port)
        yield Server(process, port)
    finally:
        process.terminate()
        process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    until_s = time.monotonic() + STARTED_S
    while True:
        try:
            socket.create_connection((HOST, port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"{process.args!r} does not listen on {port}") from None
            time.sleep(0.02)
        else:
            return


def run(
    server: Server, rival: Rival, source: Path, outputs: Sequence[Path], memory: WarmMemory
) -> dict[str, float]:
    """One counted run; every copy is compared in the end, and removed."""
    size = source.stat().st_size * len(outputs)
    commands = [rival.client(server.port, source.name, out) for out in outputs]
    with memory.lend():
        values = timed(server, commands, size)
        for out in outputs:
            harness.same_and_remove(source, out)
    return values


def timed(server: Server, commands: Sequence[list[str]], size: int) -> dict[str, float]:
    """Run ``commands`` at once, which bring ``size`` bytes together; what that took."""
    sent_before, begun = server.cpu_s(), time.monotonic()
    processes = [subprocess.Popen(one, stdin=subprocess.DEVNULL) for one in commands]
    cpu_s = 0.0
    for process in processes:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu_s += used.ru_utime + used.ru_stime
    seconds = time.monotonic() - begun
    for process in processes:
        if process.returncode:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
    gib = size / 1024**3
    sent_cpu_s = server.cpu_s() - sent_before
    return {
        "mb_per_s": size / 1e6 / seconds,
        "sender_cpu_s_per_gib": sent_cpu_s / gib,
        "receiver_cpu_s_per_gib": cpu_s / gib,
        "cpu_s_per_gib": (sent_cpu_s + cpu_s) / gib,
    }
