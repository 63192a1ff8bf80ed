"""What holds for every test: none of them leaves anything in the caches of who runs it."""

from __future__ import annotations

import os

from peer.hash_cache import ENVIRONMENT

os.environ[ENVIRONMENT] = "off"  # for the processes that tests start as well
