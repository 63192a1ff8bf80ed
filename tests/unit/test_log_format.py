"""What a tracker says, for a log collector."""

from __future__ import annotations

import json
import logging
import sys

from tracker_raft.log_format import JsonLines


def said(text: str, *arguments: object, **extra: object) -> dict[str, object]:
    logger = logging.getLogger("tracker_raft.test")
    record = logger.makeRecord(
        logger.name, logging.INFO, __file__, 1, text, arguments, None, extra=extra
    )
    line = JsonLines("n7").format(record)
    assert "\n" not in line
    value = json.loads(line)
    assert isinstance(value, dict)
    return value


def test_a_line_is_one_object_with_the_ids_of_the_request() -> None:
    """Broken: what a tracker says of a request cannot be joined with what another one says."""
    line = said("client %s", "1.2.3.4:5\nlevel=fake", request=7, session=3, seq=12, op="publish")
    assert list(line)[:5] == ["time", "level", "logger", "node", "message"]
    assert (line["level"], line["node"]) == ("info", "n7")
    assert line["message"] == "client 1.2.3.4:5\nlevel=fake"
    assert (line["request"], line["session"], line["seq"], line["op"]) == (7, 3, 12, "publish")
    assert str(line["time"]).endswith("+00:00")
    assert "request" not in said("nothing asked")


def test_what_has_no_form_in_json_is_told_as_text() -> None:
    """Broken: a request with bytes for a session number makes the tracker's log fail."""
    assert said("x", session=b"\xff")["session"] == "b'\\xff'"


def test_a_traceback_stays_in_its_line() -> None:
    """Broken: a defect's traceback is cut into lines that no collector can read."""
    try:
        raise ValueError("the defect")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    line = json.loads(JsonLines("n1").format(record))
    assert "ValueError: the defect" in line["traceback"]
