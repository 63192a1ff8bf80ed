"""What each operation in a request session does, and to which table. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracker_raft.commands import (
    CloseSession,
    Complete,
    Join,
    Leave,
    Publish,
    PublishMany,
    Remove,
    SetRetention,
    Tag,
    Untag,
)
from tracker_raft.machine.marks import Marks
from tracker_raft.machine.registry import Registry
from tracker_raft.machine.sessions import SessionTable
from tracker_raft.machine.settings import Settings
from tracker_raft.machine.swarm_table import SwarmTable
from tracker_raft.machine.sweep import Sweep
from tracker_raft.machine.vocabulary import SessionWrite


@dataclass(frozen=True, slots=True)
class Tables:
    """What an operation may change."""

    registry: Registry
    swarm: SwarmTable
    sessions: SessionTable
    sweep: Sweep
    marks: Marks
    settings: Settings


def carry_out(operation: SessionWrite, tables: Tables, now_ms: int) -> dict[str, Any]:
    """The ``ok`` map of the reply. Raises a refusal, and then has changed nothing."""
    match operation:
        case Publish():
            return tables.registry.publish(operation)
        case PublishMany():
            return tables.registry.publish_many(operation)
        case Join():
            joined = tables.swarm.join(operation, now_ms)
            tables.marks.forget(operation.content)
            return joined
        case Complete():
            return tables.swarm.complete(operation)
        case Leave():
            return tables.swarm.leave(operation)
        case Remove():
            return tables.registry.remove(operation.name)
        case Tag():
            return tables.registry.tag(operation)
        case Untag():
            return tables.registry.untag(operation)
        case SetRetention():
            shown = tables.settings.change(operation)
            tables.sweep.begin(now_ms)
            return shown
        case CloseSession():
            tables.sessions.close(operation.target)
            return {}
