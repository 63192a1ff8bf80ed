"""``python -m tests.sim --seeds 1000 --jobs 2``: many seeds, the failing ones shrunk."""

from __future__ import annotations

import json
import time
from multiprocessing import get_context

import click

from tests.sim.mutants import MUTANTS, hunt
from tests.sim.run import Outcome, run, shrink


@click.command()
@click.option("--seeds", default=100, show_default=True, help="How many seeds.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--jobs", default=2, show_default=True, help="Processes side by side.")
@click.option("--flips", is_flag=True, help="Bits flip on disks, too.")
@click.option("--members", is_flag=True, help="Nodes are added and removed, too.")
@click.option("--seed", type=int, help="Replay one seed and show what happened.")
@click.option("--mutant", help="Hunt this mutant instead: which seed catches it?")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end.")
def main(
    seeds: int,
    first: int,
    jobs: int,
    flips: bool,
    members: bool,
    seed: int | None,
    mutant: str | None,
    as_json: bool,
) -> None:
    """Simulate clusters under faults; exit status 1 when an invariant broke."""
    if seed is not None:
        _show(run(seed, flips=flips, members=members))
        return
    if mutant is not None:
        _hunt(mutant, range(first, first + seeds))
        return
    began_s = time.monotonic()
    totals = {
        "seeds": 0,
        "faults": 0,
        "events": 0,
        "virtual_hours": 0.0,
        "acknowledged": 0,
        "changes": 0,
    }
    failed: list[Outcome] = []
    work = [(number, flips, members) for number in range(first, first + seeds)]
    with get_context("fork").Pool(jobs) as pool:
        for outcome in pool.imap_unordered(_one, work, chunksize=4):
            totals["seeds"] += 1
            totals["faults"] += len(outcome.faults)
            totals["events"] += outcome.events
            totals["virtual_hours"] += outcome.virtual_s / 3600
            totals["acknowledged"] += outcome.acknowledged
            totals["changes"] += outcome.changes
            if outcome.violation:
                failed.append(outcome)
                click.echo(f"seed {outcome.seed}: {outcome.violation}")
            elif not as_json and totals["seeds"] % 50 == 0:
                click.echo(
                    f"{totals['seeds']} of {seeds} seeds, {time.monotonic() - began_s:.0f} s"
                )
    totals["virtual_hours"] = round(totals["virtual_hours"], 2)
    report = {
        **totals,
        "seconds": round(time.monotonic() - began_s, 1),
        "failed": [o.seed for o in failed],
    }
    click.echo(json.dumps(report) if as_json else f"{report}")
    for outcome in failed[:3]:
        smallest = shrink(
            outcome.seed, outcome.faults, lambda o: o.violation is not None, members=members
        )
        click.echo(f"seed {outcome.seed} fails with {len(smallest)} faults:")
        _show(run(outcome.seed, smallest, members=members))
    raise SystemExit(1 if failed else 0)


def _hunt(name: str, seeds: range) -> None:
    if name not in MUTANTS:
        raise click.UsageError(f"no mutant {name!r}; there are: {', '.join(MUTANTS)}")
    outcome = hunt(MUTANTS[name], seeds)
    if outcome is None:
        click.echo(f"{name}: not caught by seeds {seeds.start} to {seeds.stop - 1}")
        raise SystemExit(1)
    click.echo(f"{name}: caught by seed {outcome.seed}: {outcome.violation}")


def _one(work: tuple[int, bool, bool]) -> Outcome:
    seed, flips, members = work
    return run(seed, flips=flips, members=members)


def _show(outcome: Outcome) -> None:
    for fault in outcome.faults:
        click.echo(str(fault))
    click.echo(
        f"seed {outcome.seed}: {outcome.events} events, {outcome.virtual_s:.1f} virtual s, "
        f"{outcome.elections} elections, {outcome.acknowledged} acknowledged, "
        f"{outcome.unknown} unknown, {outcome.changes} changes, trace {outcome.trace}"
    )
    if outcome.violation:
        click.echo(f"VIOLATION: {outcome.violation}\n{outcome.details}")


if __name__ == "__main__":
    main()
