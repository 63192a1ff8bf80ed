"""A tracker process of the release that is installed on its machine, as the tests say which.

``release_node.py RELEASES node --id n1 ...``: RELEASES is a JSON file that maps node ids to
folders with the packages of a release; a node that is not in it runs the checkout.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    folders, arguments = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2:]
    folder = folders.get(arguments[arguments.index("--id") + 1])
    if folder is not None:
        os.environ["PYTHONPATH"] = folder
    # -P: the folder it is started in, which may be the checkout, does not come first.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "tracker_raft", *arguments])
