"""Every command and every piece of Python in the documents: options exist, targets exist, names exist; slow: they run."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import itertools
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

import rltune
from rltune import entry
from rltune.api import is_learned
from rltune.config.commands import Evaluate, Simulate
from rltune.config.traces import trace_node
from rltune.core.resources.counts import RULES
from rltune.core.resources.scores import SHARING_RULES
from rltune.kubernetes import main as beside_kubernetes
from rltune.live import main as live
from rltune.mig_commands import main as mig
from rltune.mig_commands import profiles
from rltune.nouns.errors import InputError
from rltune.policies.orders import ALIASES, ORDERS
from rltune.policies.preemptive import PREEMPTIVE, PREEMPTIVE_ALIASES
from rltune.service import opening
from rltune.simulator.options import Options
from rltune.simulator.run import simulate_jobs
from rltune.slurm import main as beside_slurm

pytestmark = pytest.mark.xdist_group("documents")

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

# --- what the documents hold ----------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of a document, or what it holds of code."""

    document: Path
    number: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.number}"


@dataclass(frozen=True)
class Command:
    """One command, as a shell takes it apart."""

    place: str
    words: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What it runs: a module, a script or ``make``."""
        return self.words[0] if self.words[0] == "make" else self.words[2 if self.words[1] == "-m" else 1]

    @property
    def given(self) -> tuple[str, ...]:
        """The words after that."""
        return self.words[self.words.index(self.kind) + 1 :]

    def __str__(self) -> str:
        return f"{self.place} {shlex.join(self.words)}"


def parted(document: Path) -> tuple[list[list[Line]], list[Line]]:
    """Blocks of code of a document, fenced or indented by four, and its other lines."""
    code: list[list[Line]] = []
    prose: list[Line] = []
    fenced = inside = False
    for number, text in enumerate(document.read_text().splitlines(), 1):
        line = Line(document, number, text)
        if text.startswith("```"):
            fenced = inside = not fenced
            if fenced:
                code.append([])
        elif fenced or text.startswith("    "):
            if not inside:
                code.append([])
            code[-1].append(line if fenced else Line(document, number, text[4:]))
            inside = True
        elif text or not inside:
            prose.append(line)
            inside = False
        else:
            # An empty line does not end an indented block.
            code[-1].append(line)
    return [block for block in code if block], prose


def is_python(block: Sequence[Line]) -> bool:
    return bool(re.match(r"(import|from|class|def) \w+", block[0].text))


def commands_of(document: Path) -> Iterator[Command]:
    """Commands in blocks, continued lines joined and comments cut off, and in code within a sentence."""
    code, prose = parted(document)
    for block in code:
        told = ""
        for line in block:
            told += line.text.removesuffix("\\")
            if not line.text.endswith("\\"):
                yield from split(told, line.place)
                told = ""
    for line in prose:
        for span in re.findall(r"`([^`]+)`", line.text):
            yield from split(span, line.place)


def split(text: str, place: str) -> Iterator[Command]:
    """The commands of a line; ``a|b`` stands for one of each."""
    for part in text.split("&&"):
        if not re.match(r"python -m rltune|python experiments/|make |rltune [a-z]+ ", part.strip()):
            continue
        words = shlex.split(re.sub(r"^rltune ", "python -m rltune.", part.strip()), comments=True)
        choices = [word.split("|") if re.fullmatch(r"\w+(\|\w+)+", word) else [word] for word in words]
        yield from (Command(place, chosen) for chosen in itertools.product(*choices))


COMMANDS = [command for document in DOCUMENTS for command in commands_of(document) if command.kind != "rltune.X"]
PYTHON = [block for document in DOCUMENTS for block in parted(document)[0] if is_python(block)]
each_command = pytest.mark.parametrize(
    "command",
    # What launches on Ray loads it: half a minute.
    [pytest.param(one, marks=pytest.mark.thorough) if "hydra/launcher=ray" in str(one) else one for one in COMMANDS],
    ids=str,
)
each_block = pytest.mark.parametrize("block", PYTHON, ids=lambda block: block[0].place)


def source(block: Sequence[Line]) -> str:
    return "\n".join(line.text for line in block) + "\n"


def test_commands_are_found_in_every_kind_of_code() -> None:
    """Commands that the search passes over could go wrong without anybody noticing."""
    kinds = {command.kind for command in COMMANDS}
    assert {"make", "rltune.train", "rltune.mig", "rltune.devices", "experiments/devices.py"} <= kinds
    assert any(command.given[:1] == ("backup",) for command in COMMANDS), "rltune serve backup FILE"
    assert len(COMMANDS) > 100
    assert {block[0].document.name for block in PYTHON} == {
        "decision.md",
        "mig_batch.md",
        "mig_online.md",
        "mig_server.md",
        "policy.md",
        "slurm.md",
        "tour.md",
    }


def test_every_policy_and_allocator_has_its_row() -> None:
    """A user would find a policy in the code alone."""
    text = (ROOT / "docs" / "reference" / "policies.md").read_text()
    names = {*ORDERS, *ALIASES, *PREEMPTIVE, *PREEMPTIVE_ALIASES, *RULES, *SHARING_RULES, "milp"}
    assert {name for name in names if f"`{name}`" not in text} == set()


PLACES = ("rltune/**/*.py", "rltune/**/*.yaml", "deploy/*", "conf/**/*.yaml", "experiments/*.py", "tests/**/*.py")


def test_pages_that_messages_name_are_there() -> None:
    """An error message would send a user to a page that has moved."""
    files = {path for pattern in PLACES for path in ROOT.glob(pattern) if path.is_file()}
    named = {(path, name) for path in files for name in re.findall(r"docs/[\w/]+\.md", path.read_text())}
    assert [f"{path.relative_to(ROOT)}: {name}" for path, name in sorted(named) if not (ROOT / name).is_file()] == []


def test_links_of_the_readme_lead_somewhere() -> None:
    """The first page that a stranger reads would have a dead link; the site checks all others."""
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", (ROOT / "README.md").read_text())
    assert len(links) > 10 and [link for link in links if not (ROOT / link).exists()] == []


# --- by default: everything named is there --------------------------------------------


class Parsed(BaseException):
    """The options were taken; what follows would be the work."""


def checked(declared: type, cfg: dict[str, Any]) -> None:
    """In the place of a command's work: what can be said of its options without it."""
    if cfg.get("trace") is not None:
        trace_node(cfg["trace"])
    if issubclass(declared, Simulate | Evaluate):
        for name in cfg["policy"] if isinstance(cfg["policy"], list) else [cfg["policy"]]:
            if name not in {"all", *ORDERS, *ALIASES, *PREEMPTIVE, *PREEMPTIVE_ALIASES} and not is_learned(name):
                raise InputError(f"policy={name} is unknown")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Commands end where their options are read."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("RLTUNE_STATE", str(tmp_path))
    run_main, parse_args = entry.run_main, argparse.ArgumentParser.parse_args

    def only_options(task: Any, declared: type, footer: str = "", sweep: Any = None) -> None:
        with monkeypatch.context() as within:
            # Hydra parses its own flags.
            within.setattr(argparse.ArgumentParser, "parse_args", parse_args)
            run_main(partial(checked, declared), declared, footer)

    def only_parsed(self: argparse.ArgumentParser, *given: Any) -> None:
        parse_args(self, *given)
        raise Parsed

    def only_read(words: list[str]) -> None:
        profiles.options(words)

    def no_state(given: str | None) -> None:
        raise Parsed

    monkeypatch.chdir(ROOT)
    for module in (entry, mig, beside_slurm, beside_kubernetes, live):
        monkeypatch.setattr(module, "run_main", only_options)
    monkeypatch.setattr(profiles, "print_profiles", only_read)
    # Commands beside the service look for its state once they have read their words.
    monkeypatch.setattr(opening, "state_directory", no_state)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parsed)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def members(words: Sequence[str]) -> list[list[str]]:
    """The runs of a multirun, each as a run of its own."""
    if "-m" not in words:
        return [list(words)]
    each = [
        [f"{override.get_key_element()}={value}" for value in values(override)]
        if override.is_sweep_override()
        else [word]
        for word in words
        if not re.match(r"-m$|sweep=|hydra[./]sweeper", word)
        for override in [OverridesParser.create().parse_override(word)]
    ]
    return [list(chosen) for chosen in itertools.product(*each)]


def values(override: Override) -> Iterator[str]:
    """Those of a multirun; of an interval its lower end."""
    return override.sweep_string_iterator() if override.is_discrete_sweep() else iter([str(override.value().start)])


def make_problem(words: Sequence[str]) -> str | None:
    """What the Makefile lacks of a ``make`` command."""
    text = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_setting, _ = word.partition("=")
        pattern = rf"^{name}\s*\?=" if is_setting else rf"^{name}:"
        if not re.search(pattern, text, re.M):
            return f"the Makefile has no {name}"
    return None


def problem_of(command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str | None:
    """What is wrong with a command, as far as its options tell; with ``no_work``."""
    if command.kind == "make":
        return make_problem(command.given)
    is_script = command.words[1] != "-m"
    if is_script and not (ROOT / command.kind).is_file():
        return "no such file"
    if is_script and "ArgumentParser" not in (ROOT / command.kind).read_text():
        return None
    if not is_script and find_spec(command.kind) is None:
        return "no such module"
    for words in [list(command.given)] if is_script else members(command.given) if command.given else []:
        monkeypatch.setattr(sys, "argv", [command.kind, *words])
        try:
            if is_script:
                # A script finds those beside it.
                monkeypatch.syspath_prepend(str(ROOT / "experiments"))
                runpy.run_path(str(ROOT / command.kind), run_name="__main__")
            else:
                runpy.run_module(command.kind, run_name="__main__", alter_sys=True)
        except Parsed:
            pass
        except InputError as error:
            return str(error)
        except SystemExit as end:
            if end.code:
                return capsys.readouterr().err
    return None


@each_command
def test_commands_take_their_options(
    command: Command, no_work: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user who copies a line from a document would get an error for an option or a command that is no more."""
    problem = problem_of(command, monkeypatch, capsys)
    assert problem is None, f"{command}: {problem}"


WRONG = {
    "python -m rltune.train +trace=helios epoch=3": "option epoch is unknown",
    "python -m rltune.train -m +trace=helios score=wait,speed": "score='speed' is unknown",
    "python -m rltune.evaluate +trace=helios protocol=year": "protocol=year is unknown",
    "python -m rltune.evaluate +trace=philly 'policy=[fifo,sjg]'": "policy=sjg is unknown",
    "python -m rltune.simulate +trace=phily": "trace=phily is unknown",
    "python -m rltune.simulate +trace=philly discipline=easy": "option discipline is now backfill",
    "python -m rltune.simulate +trace=philly options.resumes_s=60": "option options.resumes_s is unknown",
    "python -m rltune.mig serve gpu=a30 jurnal=fleet.jsonl": "option jurnal is unknown",
    "python -m rltune.mig profiles outt=tasks.csv": "option 'outt' is unknown",
    "python -m rltune.mig make": "command 'make' is unknown",
    "python -m rltune.devices show --jason": "unrecognized arguments: --jason",
    "python -m rltune.slurm depth=all": "depth='all' is unknown",
    "python -m rltune.serve polcy=sjf": "option polcy is unknown",
    "python -m rltune.serve tokens list": "command 'tokens' is unknown",
    "python -m rltune.client nod": "invalid choice: 'nod'",
    "python -m rltune.live sped=60": "option sped is unknown",
    "python -m rltune.kubernetes mode=pods": "mode='pods' is unknown",
    "python -m rltune.workloads nap": "invalid choice: 'nap'",
    "python -m rltune.learn": "no such module",
    "python experiments/nothing.py": "no such file",
    "python experiments/slurm.py --runs": "--runs",
    "rltune serve tokens list": "command 'tokens' is unknown",
    "make dinner": "the Makefile has no dinner",
    "make test ARG=x": "the Makefile has no ARG",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_commands_are_noticed(
    line: str, no_work: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A document with a command that is no more would pass."""
    (command,) = split(line, "here")
    assert WRONG[line] in (problem_of(command, monkeypatch, capsys) or "")


NAMES = {field.name.rstrip("_") for field in fields(Options)} | set(inspect.signature(simulate_jobs).parameters)
"""What `rltune.simulate` takes by name."""


def parameters(called: Callable[..., Any]) -> set[str] | None:
    """Names that a call accepts; None: any."""
    found = inspect.signature(called).parameters
    return None if any(each.kind is each.VAR_KEYWORD for each in found.values()) else set(found)


def resolved(node: ast.expr, names: dict[str, Any]) -> Any:
    """What an expression of imported names and their attributes stands for; None for any other."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolved(node.value, names)
        return getattr(owner, node.attr) if isinstance(owner, ModuleType | type) else None
    return None


def imported(tree: ast.Module) -> dict[str, Any]:
    """Names that a piece of Python imports from rltune."""
    names: dict[str, Any] = {"rltune": rltune}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("rltune"):
            module = importlib.import_module(str(node.module))
            names |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    return names


@each_block
def test_python_names_what_there_is(block: Sequence[Line]) -> None:
    """A user who copies a piece of Python would get an ImportError, or a TypeError for an argument that is no more."""
    tree = ast.parse(source(block), block[0].place)
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            resolved(node, names)
        if not isinstance(node, ast.Call):
            continue
        called = resolved(node.func, names)
        accepted = NAMES if ast.unparse(node.func) == "rltune.simulate" else called and parameters(called)
        given = {keyword.arg for keyword in node.keywords if keyword.arg}
        assert not accepted or given <= accepted, f"{block[0].place}: {ast.unparse(node)}: {given - accepted}"


# --- slow: everything runs, made small ------------------------------------------------

APPENDED = {
    "rltune.train": "nodes=4 oversized=drop protocol.window=32 protocol.warmup=0 visible=8 epochs=1 windows_per_epoch=4 validate_every=1 "
    "validation_windows=4 evaluate=false algo.envs=4 algo.threads=1 progress=false",
    "rltune.evaluate": "nodes=4 oversized=drop protocol.window=32 windows=2 progress=false",
    "rltune.simulate": "limit=60 oversized=drop progress=false",
    "rltune.mig batch": "seconds=0.1 prove_s=1",
    "rltune.mig train": "epochs=1 steps_per_epoch=512 validation_batches=1",
    "rltune.mig.online.training": "--seconds 1",
    "rltune.devices apply": "--pace 0",
    "rltune.devices profile": "--pace 0 --gpu 1",
    "rltune.devices run": "--pace 0 --seconds 0.1 --gpus 1",
    "rltune.devices watch": "--seconds 2 --quiet",
    "rltune.slurm": "--help",  # beside a Slurm: tests/slurm
    "rltune.serve": "--help",  # until a signal ends it, and who asks it: tests/service
    "rltune.client": "--help",
    "rltune.inspect": "--help",  # until Ctrl-C: tests/pages
    "rltune.live": "--help",  # tests/live
    "rltune.kubernetes": "--help",  # tests/kubernetes
    "make": "--dry-run",  # they set up an environment, and run what has tests of its own
}
"""Command -> what makes it small; one that is not here is run as it is."""
REPLACED = (
    ("rltune.(train|evaluate|simulate)", r"\+trace=(?!file).*", "+trace=synthetic trace.jobs=2000"),
    ("rltune.simulate", r"(begin|end)=\d.*", ""),
    ("rltune.train", r"score=(\w+),.*", r"score=\1"),
    ("rltune.train", r"(seed=0),.*", r"\1"),
    ("rltune.train", r"hydra.sweeper.n_trials=.*", "hydra.sweeper.n_trials=1"),
    ("rltune.train", r"runs=/.*", "runs=runs"),
    ("rltune.(train|evaluate)", r"(.*=)runs/NAME", r"\1runs/trained"),
    ("rltune.compare", "runs/NAME", "sweep/fifo"),
    ("rltune.compare", "runs/OTHER", "sweep/sjf"),
    ("rltune.devices", "RUN_DIRECTORY", "sweep/fifo"),
    ("rltune.devices", r"runs/.*/tasks.yaml", "tasks.yaml"),
    (r"rltune.mig batch .*\[", "tasks.csv", "models.csv"),
    ("rltune.mig", r"gpu=\.\.\.", "gpu=a100-80gb"),
    ("rltune.mig", "device=nvml", "device=simulated:2xa100-80gb"),
    ("rltune.mig", "events=FILE", "events=events.csv"),
    ("rltune.mig", "out=tasks.csv", "out=measured.csv"),
)
"""Command, a word of it, and the words in its place: other jobs, and something for every name that stands for one."""
TASKS = """version: 1
tasks:
  - {name: a, command: ["{python}", -c, pass], seconds: {1g: 2, 2g: 1, 7g: 1}}
  - {name: b, command: ["{python}", -c, pass], seconds: {1g: 2, 2g: 1, 7g: 1}}
"""
FILES = {
    "jobs.csv": "job_id,submit_s,duration_s,num_gpus\n"
    + "".join(f"job{n},{n // 6 * 300},{200 + 37 * n % 900},{(1, 2, 3, 4, 5, 7)[n * 5 % 6]}\n" for n in range(2000)),
    "tasks.csv": "task,1g,2g,3g,4g,7g\na,70,40,30,25,20\nb,60,35,28,20,18\n",
    "models.csv": "task,model,1g,2g,3g,4g,7g\na,A100-80GB,70,40,30,25,20\na,A30,70,40,,30,\n"
    "b,A100-80GB,60,35,28,20,18\nb,A30,60,35,,20,\n",
    "events.csv": "event,tenant,profile\nacquire,a,1g\nacquire,b,3g\nrelease,a,\nacquire,c,2g\n",
    "my.yaml": "name: ours\npools:\n  - {name: old, nodes: 12, gpus_per_node: 4, gpu_type: P100}\n",
    "spec.yaml": "version: 1\ngpus: [{gpu: 0, instances: [3g.40gb@4, 2g.20gb, 1g.10gb]}]\n",
    "tasks.yaml": TASKS,
    "conf/workloads.yaml": TASKS,
}
MADE = (
    "rltune.train +trace=synthetic name=trained",
    "rltune.simulate +trace=synthetic policy=fifo runs=sweep name=fifo",
    "rltune.simulate +trace=synthetic policy=sjf runs=sweep name=sjf",
    "rltune.devices apply spec.yaml",
)
"""What the commands of the documents find beside these files."""
NAMED: tuple[tuple[str, ...], ...] = ((), ("batch",))
"""Words of commands that are only spoken of."""
LINES = "acquire user-1 3g\nrelease user-1\n"
"""Standard input, for those that read it."""


def small(command: Command) -> list[str]:
    """The words of a command, with what makes it small."""
    kind = f"{command.kind} {' '.join(command.given)}"
    words = list(command.words)
    for pattern, word, instead in REPLACED:
        if re.match(pattern, kind):
            words = [new for old in words for new in replaced(old, word, instead)]
    more = [appended for start, appended in APPENDED.items() if kind.startswith(f"{start} ")]
    return [*words, *" ".join(more).split()]


def replaced(old: str, word: str, instead: str) -> list[str]:
    found = re.fullmatch(word, old)
    return [old] if found is None else found.expand(instead).split()


def run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, on a simulated machine."""
    python = [sys.executable] if words[0] == "python" else ["make"]
    script = [str(ROOT / word) if word.startswith("experiments/") else word for word in words[1:]]
    more = {"RLTUNE_DEVICE": "simulated:2xa100-80gb,a30", "RLTUNE_STATE": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    more["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [*python, *script], cwd=ROOT if words[0] == "make" else folder, env=os.environ | more, input=LINES,
         capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the documents speak of."""
    folder = tmp_path_factory.mktemp("documents")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for line in MADE:
        done = run(small(Command("made", ("python", "-m", *line.split()))), folder)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    return folder


def skip_what_cannot_be_had(command: Command) -> None:
    """Some commands need what no test may count on."""
    if command.kind.startswith("experiments/"):
        pytest.skip("a whole campaign: minutes to hours; that it takes its options is a test above")
    if "hydra/sweeper=optuna" in command.words:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    if command.given[:1] == ("fetch",):
        pytest.skip("downloads from a publisher")
    if command.given[:1] == ("profiles",):
        from rltune.mig.profiles import FILE
        from rltune.traces.folder import traces_folder

        if not (traces_folder(None) / FILE).is_file():
            pytest.skip("needs the measured MIG profiles beside the real traces: set RLTUNE_TRACES")


@pytest.mark.slow
@each_command
def test_commands_run(command: Command, workplace: Path, tmp_path: Path) -> None:
    """A user who copies a line from a document would see it fail, though every option in it exists."""
    skip_what_cannot_be_had(command)
    if command.kind.startswith("rltune") and command.given in NAMED:
        pytest.skip("names a command, without what it is to do")
    words = small(command)
    # A copy for each, so that none finds what another left.
    folder = shutil.copytree(workplace, tmp_path / "here")
    done = run(words, folder)
    assert done.returncode == 0, f"{command}, run as {shlex.join(words)}: {done.stdout[-1000:]}{done.stderr[-3000:]}"


@pytest.mark.slow
@each_block
def test_python_runs(block: Sequence[Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who copies a piece of Python would see it fail, though every name in it exists."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLTUNE_STATE", str(tmp_path / "state"))
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    text = source(block).replace('"nvml"', '"simulated:a100-80gb"')
    given = {"rltune": rltune, "jobs": rltune.load_trace("jobs.csv").jobs, "cluster": "uniform"}
    try:
        exec(compile(text, block[0].place, "exec"), given)
    except InputError as error:
        if not re.search("set RLTUNE_TRACES|no Slurm here", str(error)):
            raise
        pytest.skip(f"needs what is not here: {error}")
