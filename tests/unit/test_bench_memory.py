"""Memory kept warm for a run. If a test here fails, a benchmark measures its machine's host."""

from __future__ import annotations

from bench.memory import BLOCK_BYTES, WarmMemory


def test_it_is_lent_and_taken_back() -> None:
    """Broken: a run finds no more memory than without it, or the next run finds cold memory."""
    size = 8 * BLOCK_BYTES
    with WarmMemory(size) as memory:
        assert memory.held == size
        with memory.lend():
            assert memory.held == 0, "so little is given at once"
        assert memory.held == size


def test_what_a_failed_run_was_lent_is_taken_back() -> None:
    """Broken: after a run that failed nothing is warm any more."""
    with WarmMemory(1) as memory:
        try:
            with memory.lend():
                raise RuntimeError("the run")
        except RuntimeError:
            assert memory.held == BLOCK_BYTES
