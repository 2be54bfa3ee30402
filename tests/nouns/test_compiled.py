"""Machine code on disk must not outlive what it was compiled from, and an edit must not recompile the rest."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rltune
from rltune.compiling import files

pytestmark = pytest.mark.xdist_group("pack")

PACKAGE = Path(rltune.__file__).resolve().parent

NOUNS = """
from enum import IntEnum
from typing import NamedTuple

LIMIT = 10
UNUSED = 1


class Kind(IntEnum):
    SMALL = 1
    LARGE = 2


class Room(NamedTuple):
    free: int
    used: int


def is_room(kind):
    return class_of(kind) is Room


from rltune.compiled import class_of
"""
KERNELS = """
from pack import nouns
from pack.nouns import LIMIT, Kind, Room, is_room
from rltune.compiled import inner, kernel, verb


@inner
def double(x):
    '''Twice as much.'''
    return 2 * x


@inner
def limited(x):
    return min(x, LIMIT)


@kernel
def called(x):
    return double(limited(x))


@kernel
def by_module(x):
    return x + nouns.LIMIT


@kernel
def left(room):
    return room.free - room.used


@kernel
def made(x):
    return Room(x, 1).free


@kernel
def large():
    return 10 * Kind.LARGE


@verb
def size(room):
    '''Of a room.'''


@size.when(lambda room: is_room(room))
def _(room):
    return room.free + room.used


@size.when(lambda room: True)
def _(room):
    return -1


@kernel
def asked(room):
    return size(room)


@kernel
def alone(x):
    return x + 1
"""
RUN = """
import json
from pack import kernels as k
room = k.Room(5, 2)
values = [k.called(99), k.by_module(1), k.left(room), k.made(7), int(k.large()), k.asked(room), k.alone(1)]
found = {name: thing for name, thing in vars(k).items() if hasattr(thing, "stats")}
found |= {made.__name__: made for _, made in k.size.implementations}
compiled = sorted(name for name, made in found.items() if sum(made.stats.cache_misses.values()))
print(json.dumps([values, compiled]))
"""
VALUES = [20, 11, 3, 7, 20, 7, 2]
ALL = ["alone", "asked", "by_module", "called", "double", "large", "left", "limited", "made", "size_1"]
EDITS = [
    # (file, text, what it becomes, values, compiled again)
    ("kernels.py", "x + 1", "x + 2", [20, 11, 3, 7, 20, 7, 3], ["alone"]),
    ("kernels.py", "2 * x", "3 * x", [30, 11, 3, 7, 20, 7, 2], ["called", "double"]),
    ("nouns.py", "LIMIT = 10", "LIMIT = 20", [40, 21, 3, 7, 20, 7, 2], ["by_module", "called", "limited"]),
    ("nouns.py", "UNUSED = 1", "# A remark.\n\nUNUSED = 2", VALUES, []),
    ("kernels.py", "@inner\ndef double(x):\n    '''Twice", "# A remark.\n\n@inner\ndef double(x):\n    '''Double", VALUES, []),
    ("nouns.py", "LARGE = 2", "LARGE = 3", [20, 11, 3, 7, 30, 7, 2], ["large"]),
    ("nouns.py", "    free: int\n    used: int", "    used: int\n    free: int",
     [20, 11, -3, 1, 20, 7, 2], ["asked", "left", "made", "size_1"]),
    ("kernels.py", "room.free + room.used", "room.free * room.used", [20, 11, 3, 7, 20, 10, 2], ["asked", "size_1"]),
    ("nouns.py", "class_of(kind) is Room", "class_of(kind) is None", [20, 11, 3, 7, 20, -1, 2], ["asked", "size_2"]),
    ("kernels.py", "lambda room: is_room(room)", "lambda room: False", [20, 11, 3, 7, 20, -1, 2], ["asked", "size_2"]),
]  # fmt: skip


def start(folder: Path, script: str = RUN) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(PACKAGE.parent)))}
    environment.pop("NUMBA_CACHE_DIR", None)
    command = [sys.executable, "-c", script]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(folder: Path) -> list[list[object]]:
    out, err = start(folder).communicate(timeout=120)
    return list(json.loads(out)) if out else [[err]]


def write_pack(folder: Path) -> Path:
    (folder / "pack").mkdir()
    for name, text in (("__init__.py", ""), ("nouns.py", NOUNS), ("kernels.py", KERNELS)):
        (folder / "pack" / name).write_text(text)
    return folder


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "pack" / "__pycache__" / "kernels").glob("*.nbc"))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with kernels, all compiled and on disk."""
    folder = write_pack(tmp_path_factory.mktemp("pack"))
    assert run(folder) == [VALUES, ALL]
    assert len(kept(folder)) == len(ALL)
    return folder


def test_unchanged_kernels_come_from_disk(pack: Path) -> None:
    assert run(pack) == [VALUES, []]


@pytest.mark.parametrize(("file", "text", "becomes", "values", "again"), EDITS)
@pytest.mark.thorough
def test_an_edit_recompiles_what_it_changes_and_nothing_else(
    pack: Path, tmp_path: Path, file: str, text: str, becomes: str, values: list[int], again: list[str]
) -> None:
    """Too little would run old code on new data; too much would make every edit cost minutes."""
    shutil.copytree(pack, tmp_path / "copy")
    edited = tmp_path / "copy" / "pack" / file
    old = edited.read_text()
    assert old.count(text) == 1
    edited.write_text(old.replace(text, becomes))
    assert run(tmp_path / "copy") == [values, again]


@pytest.mark.thorough
def test_a_value_set_in_a_running_process_stays_out_of_the_files(pack: Path, tmp_path: Path) -> None:
    """A test that sets a constant would leave code with it for every later process."""
    shutil.copytree(pack, tmp_path / "copy")
    script = RUN.replace("room =", "k.LIMIT = k.nouns.LIMIT = 30; room =")
    out, err = start(tmp_path / "copy", script).communicate(timeout=120)
    assert json.loads(out)[0][:2] == [60, 31], err
    before_and_after = "k.called(1.5); k.LIMIT = 40; assert k.called(99) == 80; k.LIMIT = 10; room ="
    out, err = start(tmp_path / "copy", RUN.replace("room =", before_and_after)).communicate(timeout=120)
    assert out, err
    assert run(tmp_path / "copy") == [VALUES, []]


def test_a_damaged_file_is_compiled_again(pack: Path, tmp_path: Path) -> None:
    shutil.copytree(pack, tmp_path / "copy")
    first, second, *_ = [path for path in kept(tmp_path / "copy") if "alone" in path.name or "large" in path.name]
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(kept(pack)[0].read_bytes())  # another's, whole
    values, again = run(tmp_path / "copy")
    assert values == VALUES and "alone" in again
    assert run(tmp_path / "copy") == [VALUES, []]


@pytest.mark.thorough
def test_processes_compile_at_once_and_are_killed(tmp_path: Path) -> None:
    """Half a file, or one process's index to another's code, would crash the interpreter or give wrong numbers."""
    folder = write_pack(tmp_path)
    running = [start(folder) for _ in range(4)]
    begun = time.monotonic()
    for process in running[:2]:
        while not kept(folder) and time.monotonic() < begun + 60:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    for process in running[2:]:
        out, err = process.communicate(timeout=120)
        assert json.loads(out)[0] == VALUES, err
    for process in running[:2]:
        process.communicate(timeout=120)
    assert all(files.read(path) for path in kept(folder))
    assert run(folder) == [VALUES, []]


@pytest.mark.thorough
def test_a_process_killed_while_it_writes_leaves_no_half_file(tmp_path: Path) -> None:
    folder = write_pack(tmp_path)
    kill = "import os, signal\nos.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
    process = start(folder, kill + RUN)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    (left,) = (folder / "pack" / "__pycache__" / "kernels").iterdir()
    assert left.suffix == ".tmp"
    old = time.time() - files.TEMPORARY_S - 60
    os.utime(left, (old, old))
    assert run(folder) == [VALUES, ALL]
    assert not left.exists()


def test_files_of_superseded_versions_do_not_pile_up(tmp_path: Path) -> None:
    now = time.time()
    for age, name in enumerate(("e-x1", "d-x1", "d-x2", "c-x1", "b-x1", "a-x1")):
        path = tmp_path / f"pack.kernel-{name}.nbc"
        files.write(path, b"code")
        os.utime(path, (now - age, now - age))
    old = tmp_path / "pack.gone-a-x1.nbc"
    files.write(old, b"code")
    os.utime(old, (now - 1e8, now - 1e8))
    files.drop_superseded(tmp_path, "pack.kernel")
    left = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    assert files.KEPT_KEYS == 4
    assert left == {"b", "c", "d", "e"}


BOUNDED_SLOWDOWN = """
from rltune.rl.scoring import BSLD, job_cost
print(job_cost(BSLD, 99.0, 1.0), sum(job_cost.stats.cache_hits.values()))
"""


@pytest.mark.thorough
def test_a_changed_constant_of_another_module_is_compiled_in(tmp_path: Path) -> None:
    """After an update old machine code would run with the new one, and write past the ends of changed arrays."""
    copy = tmp_path / "rltune"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "conf").symlink_to(PACKAGE.parent / "conf")

    def printed() -> list[str]:
        process = start(tmp_path, BOUNDED_SLOWDOWN)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out.split()

    assert printed() == ["10.0", "0"]
    assert printed() == ["10.0", "1"]  # from disk
    metrics = copy / "nouns" / "metrics.py"
    text = metrics.read_text()
    assert text.count("BOUND_S = 10.0") == 1
    metrics.write_text(text.replace("BOUND_S = 10.0", "BOUND_S = 20.0"))
    assert printed() == ["5.0", "0"]


def is_compiled(function: ast.FunctionDef) -> bool:
    """A kernel, or an implementation of a verb."""
    return any(
        name.id in ("kernel", "inner", "compiled")
        if isinstance(name, ast.Name)
        else isinstance(name, ast.Call) and isinstance(name.func, ast.Attribute) and name.func.attr == "when"
        for name in function.decorator_list
    )


def is_inner(function: ast.FunctionDef) -> bool:
    return any(isinstance(name, ast.Name) and name.id == "inner" for name in function.decorator_list)


def python_names(tree: ast.AST) -> Iterator[str]:
    """Names that a module uses outside compiled functions and imports."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef) and is_compiled(child):
            continue
        if isinstance(child, ast.Name):
            yield child.id
        elif isinstance(child, ast.Attribute):
            yield child.attr
        yield from python_names(child)


def known_names(tree: ast.Module, module: str) -> dict[str, tuple[str, str]]:
    """Name in a module -> (module, name) of the function of ours that it stands for."""
    names = {f.name: (module, f.name) for f in tree.body if isinstance(f, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return names


def modules_of(*folders: str) -> dict[str, ast.Module]:
    root = PACKAGE.parent
    paths = [path for folder in folders for path in (root / folder).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts): ast.parse(path.read_text()) for path in paths}


def test_inner_kernels_are_called_by_kernels_only() -> None:
    """A kernel without its wrapper for Python, called from Python, would crash the interpreter without a word."""
    modules = modules_of("rltune", "tests", "experiments")
    inner = {
        (name, f.name)
        for name, tree in modules.items()
        for f in tree.body
        if isinstance(f, ast.FunctionDef) and is_inner(f)
    }
    assert len(inner) > 50
    wrong = []
    for name, tree in modules.items():
        known = known_names(tree, name)
        wrong += [(name, used) for used in set(python_names(tree)) if known.get(used) in inner]
    assert wrong == []


def test_numba_compiles_through_our_decorators_only() -> None:
    """Other ways of Numba to add code are chosen by type, not by name: a key would not see them change.

    The state's reference is the one exception: its types and its intrinsic name what they were compiled from.
    """
    others = {
        "njit",
        "jit",
        "overload",
        "overload_method",
        "overload_attribute",
        "intrinsic",
        "register_jitable",
        "vectorize",
    }
    wrong = [
        (name, used)
        for name, tree in modules_of("rltune").items()
        if not name.startswith("rltune.compil") and name != "rltune.core.reference"
        for used in others & (set(python_names(tree)) | set(known_names(tree, name)))
    ]
    assert wrong == []
