"""The house rules: what the tools check, and what no tool can know.

If a test here fails, nothing a user sees is broken yet; the next change is about to be harder
than it should be, or a rule that safety rests on (no unpickling, a pure state machine) is gone.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tracker_raft import commands, errors

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("tracker_raft", "peer")
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60

LONGER_MODULES = {
    "tracker_raft/raft/replica.py": 445,  # where all parts of one node are joined and take turns
}
"""Modules that may be longer, each with its own limit and the reason."""

RUNS_FOREIGN_CODE = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle"}
"""Modules that turn bytes into running code: nothing that came from a socket may meet them."""

RUNS_TEXT = {"eval", "exec", "compile", "__import__"}

CLOCKS_SOCKETS_TASKS_FILES = {
    "asyncio",
    "concurrent",
    "datetime",
    "io",
    "multiprocessing",
    "os",
    "pathlib",
    "psutil",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "uuid",
}
"""What a pure module must be handed instead of importing it."""

HANDED_IN = {"random.Random"}
"""Named as the type of something handed in; the rest of the module is still not touched."""

PURE: dict[str, set[str]] = {
    "tracker_raft/errors.py": set(),
    "tracker_raft/config.py": {"pathlib.Path"},  # a path is a value here, nothing is opened
    "tracker_raft/versions.py": set(),
    "tracker_raft/wire.py": {"threading.local"},  # a packer for each thread
    "tracker_raft/commands/__init__.py": set(),
    "tracker_raft/commands/operation.py": set(),
    "tracker_raft/commands/files.py": set(),
    "tracker_raft/commands/batches.py": set(),
    "tracker_raft/commands/keeping.py": set(),
    "tracker_raft/commands/swarm.py": set(),
    "tracker_raft/commands/sessions.py": set(),
    "tracker_raft/commands/trackers.py": set(),
    "tracker_raft/commands/records.py": set(),
    "tracker_raft/commands/fields.py": set(),
    "tracker_raft/entries.py": set(),
    "tracker_raft/backup_format.py": set(),
    "tracker_raft/changes.py": set(),
    "tracker_raft/log_view.py": set(),
    "tracker_raft/machine/history.py": set(),
    "tracker_raft/client/results.py": set(),
    "tracker_raft/cluster/supervise.py": set(),
    "tracker_raft/machine/tracker_machine.py": set(),
    "tracker_raft/machine/registry.py": set(),
    "tracker_raft/machine/vocabulary.py": set(),
    "tracker_raft/machine/names.py": set(),
    "tracker_raft/machine/name_index.py": set(),
    "tracker_raft/machine/wide_dict.py": set(),
    "tracker_raft/machine/applied.py": set(),
    "tracker_raft/machine/publishing.py": set(),
    "tracker_raft/machine/carrying_out.py": set(),
    "tracker_raft/machine/restoring.py": set(),
    "tracker_raft/machine/settings.py": set(),
    "tracker_raft/machine/marks.py": set(),
    "tracker_raft/machine/content_index.py": set(),
    "tracker_raft/machine/sweep.py": set(),
    "tracker_raft/machine/sessions.py": set(),
    "tracker_raft/machine/swarm_table.py": set(),
    "tracker_raft/machine/digest.py": set(),
    "tracker_raft/machine/snapshot_cursor.py": set(),
    "tracker_raft/machine/snapshot_format.py": set(),
    "tracker_raft/client/breaker.py": HANDED_IN,
    "tracker_raft/raft/agreement.py": set(),
    "tracker_raft/raft/ballots.py": set(),
    "tracker_raft/raft/clock.py": set(),
    "tracker_raft/raft/away.py": set(),
    "tracker_raft/raft/courtesy.py": set(),
    "tracker_raft/raft/configuration.py": set(),
    "tracker_raft/raft/election.py": set(),
    "tracker_raft/raft/filters.py": set(),
    "tracker_raft/raft/flights.py": set(),
    "tracker_raft/raft/founding.py": set(),  # files are handed in
    "tracker_raft/raft/gate.py": set(),
    "tracker_raft/raft/handover.py": set(),
    "tracker_raft/raft/hello.py": set(),
    "tracker_raft/raft/inbox.py": set(),
    "tracker_raft/raft/intake.py": set(),
    "tracker_raft/raft/pace.py": set(),
    "tracker_raft/raft/journal.py": set(),  # files and threads are handed in
    "tracker_raft/raft/keeper.py": set(),  # files, threads and the clock are handed in
    "tracker_raft/raft/lag.py": set(),
    "tracker_raft/raft/membership.py": set(),
    "tracker_raft/raft/memory.py": set(),  # files are handed in
    "tracker_raft/raft/outbox.py": set(),
    "tracker_raft/raft/proposer.py": set(),
    "tracker_raft/raft/reads.py": set(),
    "tracker_raft/raft/reconfiguration.py": set(),
    "tracker_raft/raft/roll.py": set(),
    "tracker_raft/raft/records.py": set(),
    "tracker_raft/raft/recovery.py": set(),  # files are handed in
    "tracker_raft/raft/seams.py": set(),
    "tracker_raft/raft/segments.py": set(),  # files are handed in
    "tracker_raft/raft/snapshots.py": set(),  # files are handed in
    "tracker_raft/raft/status.py": set(),
    "tracker_raft/raft/turns.py": set(),  # the scheduler is handed in
    "tracker_raft/raft/verify.py": set(),  # files are handed in
    "peer/limits.py": set(),
    "peer/manifest.py": set(),
    "peer/messages.py": set(),
    "peer/picker.py": HANDED_IN,
    "peer/pieces.py": set(),
    "peer/ranges.py": set(),
    "peer/selection.py": set(),
    "peer/swarm.py": HANDED_IN,
}
"""Pure modules, each with the outside names it may use all the same."""


@cache
def sources(*tops: str) -> tuple[Path, ...]:
    """Every Python file below the named folders, in a fixed order."""
    return tuple(sorted(path for top in tops for path in (ROOT / top).rglob("*.py")))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import in a file, those inside functions included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno


def impure(module: str) -> bool:
    return module.partition(".")[0] in CLOCKS_SOCKETS_TASKS_FILES


def outside(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything a file uses of a clock, socket, task or file module."""
    names: dict[str, str] = {}
    for node in ast.walk(tree(path)):
        match node:
            case ast.Import():
                for alias in filter(lambda alias: impure(alias.name), node.names):
                    top = alias.name.partition(".")[0]
                    names[alias.asname or top] = alias.name if alias.asname else top
            case ast.ImportFrom(module=str(module)) if impure(module) and not node.level:
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
    for node in ast.walk(tree(path)):
        match node:
            case ast.Attribute(value=ast.Name(id=name)) if name in names:
                yield f"{names[name]}.{node.attr}", node.lineno


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def offenders(found: list[str], rule: str) -> None:
    """Fail with the rule and every place that breaks it."""
    assert not found, f"{rule}:\n  " + "\n  ".join(found)


# -- the tools ------------------------------------------------------------------------------------

LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["-m", "ruff", "check", "."], id="ruff check"),
        pytest.param(["-m", "ruff", "format", "--check", "."], id="ruff format"),
        pytest.param(["-m", "mypy"], id="mypy"),
        pytest.param(["-c", LINT_IMPORTS, "--no-logo"], id="import-linter"),
    ],
)
def test_the_tools_find_nothing(arguments: list[str]) -> None:
    """Broken: style, types or layers; the tool's own words follow."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, f"{' '.join(arguments)}:\n{run.stdout}{run.stderr}"


# -- what no tool can know ------------------------------------------------------------------------


def test_nothing_unpickles_or_evaluates() -> None:
    """Broken: bytes from a socket or a disk could become running code."""
    found = []
    for path in sources(*PACKAGES):
        for module, line in imported(path):
            if module.partition(".")[0] in RUNS_FOREIGN_CODE:
                found.append(f"{shown(path)}:{line} imports {module}")
        for node in ast.walk(tree(path)):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in RUNS_TEXT:
                found.append(f"{shown(path)}:{called.lineno} calls {called.id}()")
    offenders(found, "no pickle, marshal, shelve, eval or exec in the packages")


def test_pysyncobj_stays_in_its_room() -> None:
    """Broken: replacing or mending the consensus library would touch more than one folder.

    The import contracts say it for the packages; this also holds for the benchmarks.
    """
    room = ROOT / "tracker_raft" / "raft"
    found = [
        f"{shown(path)}:{line}"
        for path in sources(*PACKAGES, "bench")
        if room not in path.parents
        for module, line in imported(path)
        if module.partition(".")[0] == "pysyncobj"
    ]
    offenders(found, "pysyncobj is imported only inside tracker_raft/raft")


def test_pure_modules_use_no_clock_socket_task_or_file() -> None:
    """Broken: a decision that cannot be replayed; for the state machine, replicas that differ."""
    found = [
        f"{name}:{line} uses {used}"
        for name, allowed in PURE.items()
        for used, line in outside(ROOT / name)
        if used not in allowed
    ]
    offenders(found, "pure modules are handed their clock, sockets, tasks and files")


def test_the_tables_here_name_files_that_exist() -> None:
    """Broken: a renamed module would silently fall out of the rules above."""
    found = [name for name in (*PURE, *LONGER_MODULES) if not (ROOT / name).is_file()]
    offenders(found, "named in tests/test_house_rules.py but not there")


def test_modules_and_functions_fit_their_size() -> None:
    """Broken: a module that cannot be read in one sitting, a function that fits no screen."""
    found = []
    for path in sources(*PACKAGES, "bench"):
        lines = path.read_text(encoding="utf-8").count("\n")
        limit = LONGER_MODULES.get(shown(path), MODULE_LINES_MAX)
        if lines > limit:
            found.append(f"{shown(path)}: {lines} lines, limit {limit}")
        for function in functions(path):
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > FUNCTION_LINES_MAX:
                where = f"{shown(path)}:{function.lineno} {function.name}"
                found.append(f"{where}: {length} lines, limit {FUNCTION_LINES_MAX}")
    offenders(found, "modules and functions fit their size")


def test_no_test_sleeps_for_luck() -> None:
    """Broken: a test that waits for time instead of a condition fails on a slower machine.

    A pause between two looks at a condition stands in a ``while``; so only those may sleep.
    """
    found = []
    for path in sources("tests"):
        loops = [node for node in ast.walk(tree(path)) if isinstance(node, ast.While)]
        between_looks = {id(node) for loop in loops for node in ast.walk(loop)}
        for node in ast.walk(tree(path)):
            match node:
                case ast.Call(args=[ast.Constant(value=0)]):
                    continue  # asyncio.sleep(0): one turn of the loop, no time
                case ast.Call(func=ast.Attribute(attr="sleep")) if id(node) not in between_looks:
                    found.append(f"{shown(path)}:{node.lineno} {ast.unparse(node)}")
    offenders(found, "tests wait on a condition with a limit, never for a time")


def test_every_test_says_what_would_be_broken() -> None:
    """Broken: a red test that does not tell its reader what it means for the product."""
    found = [
        f"{shown(path)}:{function.lineno} {function.name}"
        for path in sources("tests")
        if path.name.startswith("test_")
        for function in functions(path)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    offenders(found, "a test's first line says what would be broken if it failed")


def test_the_protocol_document_knows_every_word() -> None:
    """Broken: someone who writes a client from docs/protocol.md would meet unknown words."""
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    known = set(re.findall(r"[`\"]([a-z_]+)[`\"]", text))
    words = {*errors.BY_CODE, *commands.BY_WORD}
    offenders(sorted(words - known), "words of the protocol that docs/protocol.md does not have")


def test_no_file_names_a_place_outside_the_project() -> None:
    """Broken: a path that exists on one machine only would be shipped to everyone."""
    outside = re.compile("(?<![\\w.-])/(?:" + "|".join(["work", "tmp/w"]) + r")(?![\w-])")
    tops = ("tracker_raft", "peer", "bench", "tests", "docs", ".ci")
    files = [path for top in tops for path in (ROOT / top).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    found = []
    for path in files:
        if path.suffix in {".py", ".md", ".toml", ".txt", ""} and "results" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{shown(path)}: {match.group()}" for match in outside.finditer(text)]
    offenders(found, "paths of somebody's machine")
