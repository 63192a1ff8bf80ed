"""What a tracker says, as text for people or as JSON lines for a log collector."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")
TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
FIELDS = ("client", "request", "op", "session", "seq", "error")
"""What a record may carry besides its text (``extra``), each the key of its own in JSON.

``client``: address of the connection; ``request``: the id of the request on that connection;
``session``, ``seq``: of a write, the same on each attempt and each tracker.
"""


class JsonLines(logging.Formatter):
    """One object a line: ``time`` (UTC), ``level``, ``logger``, ``node``, ``message``, what of
    :data:`FIELDS` the record carries, and ``traceback`` when there is one."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "node": self._node,
            "message": record.getMessage(),
        }
        for name in FIELDS:
            value = getattr(record, name, None)
            if value is not None:
                said[name] = value
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def set_up(level: str, form: str, node: str) -> None:
    """Let all that is logged in this process go to stderr. ``form`` is one of :data:`FORMATS`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(node) if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])
