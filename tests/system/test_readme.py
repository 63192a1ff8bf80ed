"""The README as a stranger follows it: what is written there is run as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from processes import python

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_two_lines_do_all_the_set_up() -> None:
    """Broken: someone who copies a set-up line gets half of it, or CI runs another one."""
    lines = [block for block in blocks("sh") if block.startswith("python3 -m venv")]
    assert [line.count("\n") for line in lines] == [1, 1], "two blocks of one line each"
    assert lines[0].rstrip().endswith("p2p-cluster demo")
    assert lines[1].rstrip().endswith("-m pytest")


@pytest.mark.system
def test_the_ten_lines_of_python_run_as_written(tmp_path: Path) -> None:
    """Broken: the first program a newcomer tries does not do what the README says."""
    (program,) = blocks("python")
    assert len(program.strip().splitlines()) <= 12

    said = python("-c", program, cwd=tmp_path)

    assert said == "docs/hello@v1 from many, to many\n"
    assert said.strip() in README, "the README says what it prints"
    assert (tmp_path / "copy.txt").read_bytes() == (tmp_path / "hello.txt").read_bytes()
