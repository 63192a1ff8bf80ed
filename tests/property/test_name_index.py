"""The index of names: a sorted set, whatever comes and goes in whatever order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tracker_raft.machine import name_index
from tracker_raft.machine.name_index import NameIndex


@pytest.fixture(scope="module", autouse=True)
def short_runs() -> Iterator[None]:
    """Runs of a few names, so that small sets have many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name_index, "FRESH_MAX", 4)
        patch.setattr(name_index, "RUN_MAX", 16)
        yield


names = st.text("ab/ü\uffee\U0001f600", min_size=1, max_size=4)


class AgainstASet(RuleBasedStateMachine):
    """If this fails, a listing or a snapshot lacks names, has one twice, or has them in disorder;
    the steps are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.index = NameIndex()
        self.model: set[str] = set()

    @rule(name=names)
    def add(self, name: str) -> None:
        if name not in self.model:
            self.index.add(name)
            self.model.add(name)

    @rule(new=st.sets(names, max_size=30))
    def update(self, new: set[str]) -> None:
        self.index.update(sorted(new - self.model, reverse=True))
        self.model |= new

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name in self.model:
            self.index.remove(name)
            self.model.remove(name)
        else:
            with pytest.raises(KeyError):
                self.index.remove(name)

    @rule(name=names | st.none(), inclusive=st.booleans())
    def walk(self, name: str | None, inclusive: bool) -> None:
        wanted = [
            one
            for one in sorted(self.model)
            if name is None or one > name or (inclusive and one == name)
        ]
        assert list(self.index.after(name, inclusive=inclusive)) == wanted

    @invariant()
    def counts(self) -> None:
        assert len(self.index) == len(self.model)
        assert all(len(run) <= 34 for run in self.index._runs)


AgainstASet.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestAgainstASet = AgainstASet.TestCase


def test_a_hundred_thousand_names_are_in_few_runs() -> None:
    """Broken: looking for a place takes a search in each of a thousand lists."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(name_index, "FRESH_MAX", 64)
        patch.setattr(name_index, "RUN_MAX", 4_096)
        index = NameIndex()
        for number in range(100_000):
            index.add(f"{number * 7919 % 100_003:06}")
        assert list(index.after("099990")) == sorted(
            f"{n * 7919 % 100_003:06}" for n in range(100_000) if n * 7919 % 100_003 > 99_990
        )
        assert len(index._runs) <= 100_000 // 2_048 + 8
