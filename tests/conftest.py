"""What holds for every test: none leaves anything in the caches of who runs it, and none fails
because the machine is slow: time is not what hypothesis is used for here."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from peer.hash_cache import ENVIRONMENT

os.environ[ENVIRONMENT] = "off"  # for the processes that tests start as well

settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")
