"""Which answers of a follower belong to what the leader is sending it now. Pure bookkeeping.

The library sends ahead: many appends are under way to a follower at once. When one of them does
not fit, the follower asks to go on from another place, and asks again, for other places, in
answer to each append that was still behind it. The library obeys each ask, so the ask that leads
back to the point of agreement is undone by those that come after it, and a follower with a
conflict in its log may never catch up (found by simulation); under load it is sent the whole log
once for each append that was under way.

So each append carries the number of its *flight*, the follower echoes it, and the number rises
when the leader obeys an ask: what answers an older flight is a sign of life and no more. Links
are first in, first out, and what is lost ends with the link or shows in a later answer, so the
current flight is always answered in the end.
"""

from __future__ import annotations

from collections import Counter

from tracker_raft.raft.seams import Message


class Flights:
    """The flights of one node: those it sends, and the one it answers just now."""

    def __init__(self) -> None:
        self._sending: Counter[str] = Counter()
        self._answering = 0

    def outgoing(self, node: str, message: Message) -> Message:
        """Stamp an append with its flight, an acknowledgement with the one it answers."""
        match message["type"]:
            case "append_entries":
                return {**message, "flight": self._sending[node]}
            case "next_node_idx":
                return {**message, "flight": self._answering}
        return message

    def answering(self, append: Message) -> None:
        """From now on, what is said to its sender answers this append."""
        self._answering = append.get("flight", 0)

    def current(self, node: str, acknowledgement: Message) -> Message:
        """Take an ask that is out of date for what it is; one that is obeyed ends its flight."""
        if acknowledgement["reset"]:
            if acknowledgement.get("flight", 0) != self._sending[node]:
                return {**acknowledgement, "reset": False}
            self._sending[node] += 1
        return acknowledgement
