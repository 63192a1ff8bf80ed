"""``tls``: what TLS 1.3 costs on a piece link, by the way it is used, beside the same in the clear.

One sending process, one receiving process, a thread for each connection, the same file for all,
in alternation (:mod:`bench.tls_ends` is what runs in the processes). Received is hashed and written
in place but where a name says else. The contenders are the cross of what was worth trying, not of
all there is; ``--way`` chooses among them.

* ``plain 1``, ``plain 2``: ``sendfile`` in the clear, one connection and two. Two is the limit.
* ``tls 1``, ``tls 2``, ``tls 4``: TLS 1.3 as Python's ``ssl`` has it without any setting: the
  cipher is then AES-256-GCM. The file is read into a buffer, 512 KiB at a time.
* ``aes128 2``, ``chacha20 2``: other ciphers.
* ``mmap 2``: sent from a mapping of the file instead of a buffer.
* ``small 2``: 16 KiB, the largest record, handed over at once.
* ``memory 2``: TLS on buffers in memory, the socket read 256 KiB at a time.
* ``drop 2``, ``tls drop 2``: neither hashed nor written, in the clear and with TLS: the link alone.
* ``blake3 2``, ``tls blake3 2``: BLAKE3 instead of SHA-256, where the package is installed.
* ``ktls 2``: encrypted by the kernel, where it can.

MB are 10^6 bytes; CPU seconds are per GiB; the handshakes are counted, starting Python is not.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import harness
from bench.children import End
from bench.ends import HOST
from bench.harness import MIB
from bench.isolation import own_network
from bench.memory import WarmMemory
from bench.tls_ends import Way

MODULE = "bench.tls_ends"
RECEIVE_TIMEOUT_S = 600.0
EXTRA_BYTES = 256 * MIB
LIMIT = "plain 2"
TCP_ULP = 31
"""Puts a protocol on top of a TCP connection, inside the kernel."""

WAYS = {
    "plain 1": Way(connections=1),
    "plain 2": Way(),
    "tls 1": Way(connections=1, tls=True),
    "tls 2": Way(tls=True),
    "tls 4": Way(connections=4, tls=True),
    "aes128 2": Way(tls=True, cipher="TLS_AES_128_GCM_SHA256"),
    "chacha20 2": Way(tls=True, cipher="TLS_CHACHA20_POLY1305_SHA256"),
    "mmap 2": Way(tls=True, source="mmap"),
    "small 2": Way(tls=True, send_bytes=16384),
    "memory 2": Way(tls=True, engine="memory"),
    "drop 2": Way(hash="none", written=False),
    "tls drop 2": Way(tls=True, hash="none", written=False),
    "blake3 2": Way(hash="blake3"),
    "tls blake3 2": Way(tls=True, hash="blake3"),
    "ktls 2": Way(tls=True, ktls=True),
}
KEYS = ("mb_per_s", "sender_cpu_s_per_gib", "receiver_cpu_s_per_gib")


def make_certificate(folder: Path) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that signs itself, and its key. Made by ``openssl``."""
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "1", "-subj", "/CN=bench", "-keyout", key, "-out", certificate]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return certificate, key


def environment(folder: Path, cipher: str) -> dict[str, str]:
    """That of a process that offers one cipher suite only.

    Python's ``ssl`` cannot choose among those of TLS 1.3 up to 3.14; OpenSSL's own settings can.
    """
    if not cipher:
        return dict(os.environ)
    place = folder / f"{cipher}.cnf"
    sections = ("openssl_conf = start", "[start]", "ssl_conf = kinds", "[kinds]")
    text = "\n".join((*sections, "system_default = one", "[one]", f"Ciphersuites = {cipher}", ""))
    place.write_text(text, encoding="ascii")
    return {**os.environ, "OPENSSL_CONF": str(place)}


def ktls_absent() -> str | None:
    """Why the kernel cannot encrypt here; None when it can."""
    with (
        socket.create_server((HOST, 0)) as listener,
        socket.create_connection(listener.getsockname()) as connection,
    ):
        try:
            connection.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        except OSError as error:
            return f"the kernel has no TLS for sockets: {error.strerror}"
    return None


def absent_ways(chosen: Iterable[str]) -> dict[str, str]:
    """Those that cannot run here, and those that were not asked for, each with the reason."""
    reasons = {name: "not asked for" for name in WAYS if name not in chosen}
    why = ktls_absent()
    for name, way in WAYS.items():
        if name not in reasons:
            if way.ktls and why is not None:
                reasons[name] = why
            if way.hash == "blake3" and importlib.util.find_spec("blake3") is None:
                reasons[name] = "pip install blake3"
    return reasons


def run(
    sender: End, way: Way, source: Path, certificate: str, memory: WarmMemory
) -> dict[str, float]:
    """Send ``source`` once. Raises RuntimeError when another cipher was used than asked for."""
    size = source.stat().st_size
    out = source.with_name("arrived.bin")
    arguments = [str(sender.said["port"]), str(size), str(out), certificate]
    command = [sys.executable, "-m", MODULE, "receive", *arguments, json.dumps(asdict(way))]
    with memory.lend():
        before = sender.cpu_s()
        done = subprocess.run(
            command,
            cwd=harness.ROOT,
            env=environment(source.parent, way.cipher),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=RECEIVE_TIMEOUT_S,
            check=True,
        )
        sent_cpu_s = sender.cpu_s() - before
        arrived = out.stat().st_size
        out.unlink()
    said = json.loads(done.stdout)
    if arrived != (size if way.written else 0):
        raise RuntimeError(f"{arrived} bytes arrived, expected {size}")
    expected = f"TLSv1.3 {way.cipher}" if way.tls else ""
    if not said["cipher"].startswith(expected) or bool(said["cipher"]) != way.tls:
        raise RuntimeError(f"cipher {said['cipher']!r} was used, expected {expected!r}")
    gib = size / 1024**3
    return {
        "mb_per_s": size / 1e6 / said["seconds"],
        "sender_cpu_s_per_gib": sent_cpu_s / gib,
        "receiver_cpu_s_per_gib": said["cpu_s"] / gib,
    }


def figures(result: harness.Result) -> dict[str, Any]:
    """Medians of each way, and its rate through that of the limit within each round."""
    found: dict[str, Any] = {}
    limit = result.values(LIMIT, "mb_per_s")
    for name in dict.fromkeys(sample.contender for sample in result.samples):
        values = {key: result.values(name, key) for key in KEYS}
        one: dict[str, Any] = {key: harness.summary(some) for key, some in values.items()}
        one["to_plain"] = harness.ratio(values["mb_per_s"], limit)
        found[name] = one
    return found


@click.command()
@click.option("--mib", default=1024, show_default=True, type=click.IntRange(1))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
@click.option(
    "--way",
    "ways",
    multiple=True,
    type=click.Choice(tuple(WAYS)),
    help=f"May be given again; '{LIMIT}' is always there. Default: all.",
)
@click.option("--dir", "base", type=Path, metavar="DIR", help="Where the files lie.")
@harness.common_options
def tls(
    mib: int, runs: int, ways: tuple[str, ...], base: Path | None, as_json: bool, out: Path
) -> None:
    """A piece link with TLS 1.3, in several ways, beside the same in the clear."""
    network = own_network()
    chosen = {LIMIT, *ways} if ways else set(WAYS)
    result = harness.Result("tls", {"mib": mib, "runs": runs, "network": network})
    result.absent = absent_ways(chosen)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base) as name:
        folder = Path(name)
        source = folder / "source.bin"
        harness.random_file(source, mib * MIB)
        certificate, key = make_certificate(folder)
        with (
            End("serve", str(source), certificate, key, module=MODULE) as sender,
            WarmMemory(mib * MIB + EXTRA_BYTES) as memory,
        ):
            measured = {
                name: partial(run, sender, way, source, certificate, memory)
                for name, way in WAYS.items()
                if name not in result.absent
            }
            result.samples = harness.alternate(runs, measured, harness.progress)
    result.figures = figures(result)
    harness.finish(result, lines(result), as_json=as_json, out=out)


def lines(result: harness.Result) -> list[str]:
    """The table a reader sees."""
    shown = [f"{'':14}{'MB/s':>8}{'min':>8}{'max':>8}   CPU s/GiB send + receive   of plain"]
    for name, one in result.figures.items():
        rate, part = one["mb_per_s"], one["to_plain"]
        cpu = [one[f"{end}_cpu_s_per_gib"]["median"] for end in ("sender", "receiver")]
        shown.append(
            f"{name:14}{rate['median']:8.0f}{rate['min']:8.0f}{rate['max']:8.0f}"
            f"   {cpu[0]:10.2f} + {cpu[1]:<11.2f}   {part['median']:.2f}"
        )
    shown += [f"{name}: absent: {why}" for name, why in result.absent.items()]
    return shown
