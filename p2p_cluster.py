"""Where ``p2p-cluster`` begins: nothing is imported here that takes time.

Until the words are there, a third of a second later, Ctrl-C ends the process with status 130, as
it does afterwards; raised inside an import it would show the user a traceback of the import.
"""

from __future__ import annotations

import os
import signal

STATUS_INTERRUPTED = 130


def main() -> None:
    """Run the command line. Ends the process."""
    # Started in the background of a script it may be ignored, and then stays so.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(STATUS_INTERRUPTED))
    from peer.cli import main as words

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    words(prog_name="p2p-cluster")


if __name__ == "__main__":
    main()
