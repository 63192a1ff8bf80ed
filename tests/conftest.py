"""What holds for every test: none leaves anything in the caches of who runs it, and none fails
because the machine is slow (time is not what hypothesis is used for here) or because the tests were
started in the background."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

from peer.hash_cache import ENVIRONMENT

os.environ[ENVIRONMENT] = "off"  # for the processes that tests start as well

settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell does for a job behind an `&`
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start is to hear Ctrl-C
