"""``python -m tracker_raft``: the cluster words alone, for a tracker without the peer."""

from __future__ import annotations

import click

from tracker_raft import interrupt
from tracker_raft.cli import COMMANDS
from tracker_raft.terminal import Guarded


@click.group(cls=Guarded, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A Raft-replicated tracker: run one node, or a whole cluster on this machine."""


for command in COMMANDS:
    main.add_command(command)

if __name__ == "__main__":
    interrupt.as_usual()
    main(prog_name="python -m tracker_raft")
