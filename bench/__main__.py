"""``python -m bench``: lists the benchmarks; ``python -m bench NAME``: runs one.

Each prints a short table and keeps its whole result in ``bench/results/NAME-<time>.json``.
"""

from __future__ import annotations

import os

import click

from bench.choice import choice
from bench.download import download
from bench.failover import failover
from bench.hashing import hashing
from bench.overload import overload
from bench.picker import picker
from bench.publish import publish
from bench.reads import reads
from bench.scale import scale
from bench.small import one, small
from bench.snapshot import snapshot
from bench.swarm import swarm
from bench.tls import tls
from peer.hash_cache import ENVIRONMENT
from tracker_raft.terminal import Guarded


@click.group(cls=Guarded, invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Measure, each figure beside a rival's or a limit's in the same run."""
    os.environ[ENVIRONMENT] = "off"  # the files shared here are gone when it ends
    if context.invoked_subcommand is None:
        for name, command in sorted(main.commands.items()):
            click.echo(f"{name:10}  {command.get_short_help_str(limit=80)}")


main.add_command(choice)
main.add_command(failover)
main.add_command(download)
main.add_command(hashing)
main.add_command(overload)
main.add_command(picker)
main.add_command(publish)
main.add_command(reads)
main.add_command(scale)
main.add_command(snapshot)
main.add_command(one)
main.add_command(small)
main.add_command(swarm)
main.add_command(tls)

if __name__ == "__main__":
    main(prog_name="python -m bench")
