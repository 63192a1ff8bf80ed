"""The client of a tracker cluster: plain threads on blocking sockets.

In the order to read them: :mod:`.tracker_client` (the operations as methods), :mod:`.requester`
(how a call fails over and runs once), :mod:`.watch` (changes as they come), :mod:`.call`,
:mod:`.rotation` and :mod:`.breaker` (whom to ask next), :mod:`.request_session` (exactly once),
:mod:`.connection`, :mod:`.deadline`.
"""

from tracker_raft.client.results import Page, Published, Swarm
from tracker_raft.client.tracker_client import TrackerClient
from tracker_raft.client.watch import Watch

__all__ = ["Page", "Published", "Swarm", "TrackerClient", "Watch"]
