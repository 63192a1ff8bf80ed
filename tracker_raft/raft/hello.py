"""The first frame of a link, either way: who is at the other end. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tracker_raft.config import PROTOCOL_VERSION
from tracker_raft.errors import BadRequest, Unsupported
from tracker_raft.raft.filters import Message
from tracker_raft.versions import NEWEST, OLDEST, SOFTWARE


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is at the other end."""

    node: str
    boot: str
    endpoint: str
    """The client address the node advertises."""
    birth: str
    """Of its directory (:mod:`memory`)."""
    members: tuple[str, ...]
    """Ids of all voters as the node knows them, in order."""
    probe: bool = False
    """The dialler only asks which run answers, and hangs up."""
    software: str = SOFTWARE
    """The release it runs; empty when it did not say: a release before 0.2.0."""
    newest: int = NEWEST
    """The newest cluster version that it supports."""
    index: int = 0
    """Of the entry that says who the members are; 0: the settings do."""
    joining: bool = False
    """The node waits to be made a member."""
    raft: str = ""
    """Where the node is reached by the others, as it says itself."""

    def to_wire(self, cluster: str) -> Message:
        return {
            "type": "hello",
            "protocol": PROTOCOL_VERSION,
            "cluster": cluster,
            "node": self.node,
            "boot": self.boot,
            "endpoint": self.endpoint,
            "birth": self.birth,
            "members": self.members,
            "probe": self.probe,
            "software": self.software,
            "versions": (OLDEST, self.newest),
            "index": self.index,
            "joining": self.joining,
            "raft": self.raft,
        }

    @classmethod
    def from_wire(cls, message: Message, cluster: str) -> Hello:
        """Raises :class:`BadRequest` for another protocol, another cluster or a malformed one."""
        if message.get("type") != "hello":
            raise BadRequest(f"first frame is {message.get('type')!r}, expected 'hello'")
        if message.get("protocol") != PROTOCOL_VERSION:
            raise BadRequest(
                f"link protocol {message.get('protocol')!r}, this version speaks {PROTOCOL_VERSION}"
            )
        if message.get("cluster") != cluster:
            raise BadRequest(f"cluster {message.get('cluster')!r}, expected {cluster!r}")
        texts = [message.get(key) for key in ("node", "boot", "endpoint", "birth")]
        members = message.get("members")
        if not all(type(text) is str and 0 < len(text) <= 300 for text in texts):
            raise BadRequest("hello without node, boot, endpoint or birth")
        if type(members) is not tuple or not all(type(member) is str for member in members):
            raise BadRequest("hello without members")
        software, versions = message.get("software", ""), message.get("versions", (OLDEST, OLDEST))
        if type(software) is not str or len(software) > 64:
            raise BadRequest("hello with a malformed release")
        match versions:
            case (int(oldest), int(newest)) if 0 < oldest <= newest:
                pass
            case _:
                raise BadRequest(f"hello with cluster versions {versions!r}")
        node, boot, endpoint, birth = map(str, texts)
        index, raft = message.get("index", 0), message.get("raft", "")  # an older version says none
        if type(index) is not int or type(raft) is not str or len(raft) > 300:
            raise BadRequest("hello with a bad index or raft address")
        probe, joining = message.get("probe") is True, message.get("joining") is True
        return cls(
            *(node, boot, endpoint, birth, members, probe),
            software=software,
            newest=newest,
            index=index,
            joining=joining,
            raft=raft,
        )


def client_refused(me: Hello) -> Message:
    """The answer to a client that came to the port of the trackers, as its protocol has it."""
    text = (
        f"this is the Raft port of tracker {me.node}, where other trackers come; clients are "
        f"served at {me.endpoint}"
    )
    return {"id": 0, **Unsupported(text).to_wire()}
