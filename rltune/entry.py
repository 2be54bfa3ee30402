"""What every entry point shares: Hydra composes, a wrong option or bad input is one line and exit status 2."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, Protocol

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rltune.config.choices import CHOICES, WITHOUT, check_node, meaning, names, node
from rltune.config.declare import check, declared_in, defaults, groups, help_lines, unknown
from rltune.config.files import CONF
from rltune.nouns.errors import InputError, Interrupted
from rltune.nouns.renamed import refuse_old_options

Task = Callable[[dict[str, Any]], str | None]


def answer_early(declared: type, footer: str = "") -> None:
    """Before a command loads PyTorch and Ray, which takes seconds: print --help and end, or refuse a wrong option.

    What needs the trace or the machine is left to `run_main`; of a multirun the first value of each option is looked at.
    """
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print("\n".join(help_of(declared, footer)))
        sys.exit(0)
    given = [spelled(each, declared) for word in words for each in with_files(word) if not word.startswith("-")]
    try:
        refuse_old_options(dict(word.lstrip("+~").split("=", 1) for word in words if "=" in word), options_of(declared))
        parsed = OverridesParser.create().parse_overrides(given)
        # Hydra's own groups, such as the launcher, are not ours to look at.
        own = [single(each, word) for each, word in zip(parsed, given, strict=True) if not is_hydras(each.key_or_group)]
        check_all(declared, composed_of(declared, own))
    except (InputError, HydraException, OmegaConfBaseException) as error:
        if isinstance(error, OmegaConfBaseException) and "???" in str(error):
            return  # told better where the file is looked for
        fail(error, declared)


def is_hydras(key: str) -> bool:
    return key.startswith(("hydra.", "hydra/"))


def single(override: Any, word: str) -> str:
    """An option as typed; of several values, or of a range that is searched, the first."""
    if not override.is_sweep_override():
        return word
    first = override.value().start if override.is_interval_sweep() else next(iter(override.sweep_string_iterator()))
    return f"{word.partition('=')[0]}={first}"


class Sweep(Protocol):
    """What a command does with a multirun: `rltune.experiment.sweeping.Sweep`."""

    @property
    def module(self) -> str: ...

    @property
    def objective(self) -> Callable[[Path], float] | None: ...

    @property
    def direction(self) -> str: ...

    def folder(self, runs: str, sweep: str | None) -> Path: ...

    def going(self, folder: Path, words: Sequence[str]) -> AbstractContextManager[None]: ...

    def member(self, task: Task, cfg: dict[str, Any], pairs: Mapping[str, str], folder: Path) -> Path: ...


def run_main(task: Task, declared: type, footer: str = "", sweep: Sweep | None = None) -> None:
    """Put the options of ``declared`` and the command line together and run ``task`` on them, once or as a multirun.

    ``task`` gets plain values, checked, and returns the run directory, which is printed as
    the last line of standard output; None where it leaves none. ``footer``: last lines of --help.
    ``sweep``: what goes round the members of a multirun; None: they are runs like any others.
    """
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print("\n".join(help_of(declared, footer)))
        return
    given = [spelled(each, declared) for word in words for each in with_files(word)]
    many: Sweep | None = None
    around: AbstractContextManager[None] = nullcontext()
    try:
        refuse_old_options(dict(word.lstrip("+~").split("=", 1) for word in words if "=" in word), options_of(declared))
        if sweep is not None and {"-m", "--multirun"} & set(words):
            many, around, more = planned(sweep, words, given)
            given += more
    except InputError as error:
        fail(error)
    sys.argv[1:] = given
    # Without this Hydra prints its own shortened traceback and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    store(declared)

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=declared.__name__)
    def main(cfg: DictConfig) -> str | float | None:
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        try:
            check_all(declared, plain)
            if many is None and plain.get("sweep"):
                raise InputError(f"sweep={plain['sweep']} is the folder of a multirun; add -m, or leave it out")
            path = task(plain) if many is None else str(many.member(task, plain, set_apart(), folder_of_sweep()))
        except InputError as error:
            # Hydra would print the failed overrides first; in a multirun the launcher has to see the error itself.
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                fail(error)
            raise
        if path is not None:
            print(path, flush=True)
        return many.objective(Path(path)) if many is not None and many.objective is not None and path else path

    try:
        with around:
            main()
    except KeyboardInterrupt as error:
        end = error if isinstance(error, Interrupted) else Interrupted(signal.SIGINT)
        print(f"error: {end.told}", file=sys.stderr)
        sys.exit(end.status)
    except (InputError, HydraException, OmegaConfBaseException) as error:
        fail(error, declared)
    except Exception as error:
        # Launchers and Ray wrap what a job raised.
        cause = _input_error(error)
        if cause is None:
            raise
        fail(cause)


def composed(declared: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a command as `run_main` would give them to its task, of values by name instead of words.

    Raises InputError in one line, as the command line does.
    """
    typed = [each for name, value in options.items() for each in with_files(f"{name}={as_word(value)}")]
    try:
        plain = composed_of(declared, [spelled(word, declared) for word in typed])
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_one_line(error, declared)) from None
    check_all(declared, plain)
    return plain


def composed_of(declared: type, words: Sequence[str]) -> dict[str, Any]:
    """What Hydra makes of words that it can read."""
    store(declared)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        plain: Any = OmegaConf.to_container(hydra.compose(declared.__name__, list(words)), resolve=True)
    return {name: value for name, value in plain.items() if name != "hydra"}


def as_word(value: Any) -> str:
    """A value as one types it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_word, value))}]"
    return str(value) if isinstance(value, int | float) or PLAIN_PATH.fullmatch(str(value)) else quoted(str(value))


OPTUNA = "hydra/sweeper=optuna"


def planned(
    sweep: Sweep, words: Sequence[str], given: Sequence[str]
) -> tuple[Sweep, AbstractContextManager[None], list[str]]:
    """What goes round a multirun, and the further words that tell Hydra of it; ``given``: ``words`` as Hydra takes them.

    Raises InputError for options of a single run, and for a search where it cannot be.
    """
    try:
        parsed = OverridesParser.create().parse_overrides([word for word in given if not word.startswith("-")])
    except HydraException:
        # Hydra refuses them itself, in its own words.
        return sweep, nullcontext(), []
    value: dict[str, Any] = {each.get_key_element().lstrip("+"): each.value() for each in parsed}
    for name in ("name", "resume"):
        if value.get(name) is not None:
            raise InputError(
                f"{name}={value[name]} is of one run; members of a multirun are named by their options: sweep=DIR"
            )
    folder = sweep.folder(str(value.get("runs", "runs")), value.get("sweep"))
    more = [
        f"hydra.job.config.override_dirname.exclude_keys={[each.key_or_group for each in parsed if not each.is_sweep_override()]}"
    ]
    if "hydra/launcher=ray" in given:
        # Workers stand in other directories.
        folder = folder.absolute()
        if "RAY_ADDRESS" in os.environ and not any("object_store_memory" in word for word in given):
            # The launcher would ask the cluster for a store of a size, which is refused.
            more.append("+hydra.launcher.ray.init.object_store_memory=null")
    if OPTUNA in given:
        more += searched(sweep, value)
    return sweep, sweep.going(folder, words), [*more, f"hydra.sweep.dir={quoted(str(folder))}"]


def searched(sweep: Sweep, value: Mapping[str, Any]) -> list[str]:
    """Further words of a search by Optuna: which way is better, and a seed, so that the same command draws the same members."""
    if sweep.objective is None:
        raise InputError(f"{OPTUNA}: {sweep.module} has no figure to search by; rltune.train and rltune.simulate have")
    if find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
        raise InputError(f"{OPTUNA} needs the package hydra-optuna-sweeper: pip install 'rltune[optuna]'")
    usual = {"hydra.sweeper.direction": sweep.direction, "hydra.sweeper.sampler.seed": "0"}
    return [f"{name}={usual[name]}" for name in usual if name not in value]


def set_apart() -> dict[str, str]:
    """The options that set this member of a multirun apart from the others, as they were typed."""
    config = HydraConfig.get()
    others = set(config.job.config.override_dirname.exclude_keys)
    parsed = OverridesParser.create().parse_overrides(list(config.overrides.task))
    return {each.key_or_group: str(each.value()) for each in parsed if each.key_or_group not in others}


def folder_of_sweep() -> Path:
    return Path(HydraConfig.get().sweep.dir)


def typed() -> list[str]:
    """The options of this run as they were typed, for Hydra: of a multirun its own values; none outside `run_main`."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


HYDRA = {
    "output_subdir": None,
    "run": {"dir": "."},
    "sweep": {"dir": "${runs}", "subdir": "."},
    "job": {"chdir": False},
}
"""Run directories are ours (`rltune.rundir`): Hydra leaves no files and stays in the working directory."""


def store(declared: type) -> None:
    """Put a command's options, and the nodes that its groups choose from, where Hydra looks for them."""
    chosen = groups(declared)
    quiet = [{"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"}]
    here = ConfigStore.instance()
    here.store(
        declared.__name__,
        {"defaults": [*({k: v} for k, v in chosen.items()), *quiet, "_self_"], **defaults(declared), "hydra": HYDRA},
    )
    for group in chosen:
        for name in CHOICES.get(group, ()):
            here.store(name, node(group, name), group=group)


def options_of(declared: type) -> list[str]:
    return [name for name, _, _ in declared_in(declared)]


def check_all(declared: type, plain: dict[str, Any]) -> None:
    """Refuse, in one line, what Hydra cannot see: values of the wrong kind, options of a node that it does not have."""
    check(declared, plain)
    for group in groups(declared):
        if group in CHOICES:
            check_node(group, plain[group])


def with_files(word: str) -> list[str]:
    """``trace=jobs.csv`` and ``cluster=my.yaml`` as ``trace=file trace.path=jobs.csv``; other words as they are."""
    name, _, value = word.partition("=")
    name, paths = name.lstrip("+"), value.strip("'").split(",")
    # A name that there is comes before a file that is called so, which is reached as ./helios.
    if name in FILE_ENDS and all(is_file_word(path, FILE_ENDS[name]) and path not in names(name) for path in paths):
        return [f"{name}=file", f"{name}.path={','.join(_value(path) for path in paths)}"]
    return [word]


def is_file_word(value: str, ends: tuple[str, ...]) -> bool:
    """Whether a value can only be meant as a file: by its end, or as a path that is there."""
    return value.endswith(ends) or (os.sep in value and os.path.lexists(value))


FILE_ENDS = {"trace": (".csv", ".csv.gz", ".json", ".json.gz", ".parquet"), "cluster": (".yaml", ".yml")}
"""What may be chosen by path, and what such a path ends in."""


def spelled(word: str, declared: type) -> str:
    """A word of the command line as Hydra wants it."""
    word = _quoted(word)
    # `trace` is not in the defaults list (every trace is an addition to it), so Hydra wants +trace=; we accept both.
    if word.startswith("trace="):
        return f"+{word}"
    path = word.lstrip("+").partition("=")[0].split(".")
    in_part = path[0] in [name for name, _, meta in declared_in(declared) if meta.part is not None]
    # Keys that Hydra need not know: of a cluster's pools; of a node that a multirun chooses anew for each run, of which
    # Hydra looks at the first default only; below a value that is a mapping (options.quotas.vcA). We check them ourselves.
    if (path[0] in ("trace", *groups(declared)) and len(path) > 1) or (in_part and len(path) > 2):
        return f"++{word.lstrip('+')}"
    # With a + they were typed when there was no declaration of them.
    return word.lstrip("+") if in_part else word


def _quoted(word: str) -> str:
    """The value in quotes where it is the name of a file or folder that Hydra's grammar would take apart."""
    name, equals, value = word.partition("=")
    return f"{name}={_value(value)}" if equals and os.path.lexists(value) else word


def _value(path: str) -> str:
    return path if PLAIN_PATH.fullmatch(path) else quoted(path)


def quoted(value: str) -> str:
    """A value in quotes, whatever is in it."""
    # Before a quote backslashes count double; ${ would be taken for another option's value.
    guarded = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{guarded.replace('${', chr(92) + '${')}'"


PLAIN_PATH = re.compile(r"[\w./:%+@-]*", re.ASCII)
"""Values that Hydra takes as they are."""


def help_of(declared: type, footer: str) -> Iterator[str]:
    """What --help prints: what is chosen by name, every option as ``name: default  # what it means``, the footer."""
    yield f"usage: {' '.join((declared.__doc__ or '').split())}"
    chosen = groups(declared)
    if chosen:
        yield "\nChosen by name:\n"
    for name, _, meta in declared_in(declared):
        if name in chosen or name == "trace":
            yield f"{name}={chosen.get(name, 'NAME')}".ljust(24) + meta.says
            if name in CHOICES:
                yield from (f"    {each.ljust(20)}{meaning(name, each)}" for each in names(name))
            else:
                yield textwrap.indent(textwrap.fill(", ".join(names(name)), 116), "    ")
    yield "\nOptions (NAME=VALUE; several runs: -m NAME=VALUE,VALUE), with their defaults:\n"
    for group, name in chosen.items():
        if group in CHOICES and node(group, name).keys() > {"name"}:
            yield f"{group}:".ljust(28) + f" # of {group}={name}"
            yield from help_lines(CHOICES[group][name], WITHOUT.get(group, ()), None, "  ")
    yield from (line for line in help_lines(declared) if line.partition(":")[0] not in (*chosen, "trace"))
    if footer:
        yield f"\n{footer}"


def fail(error: BaseException, declared: type | None = None) -> NoReturn:
    """One line on standard error, exit status 2, or 1 where the input was good (`rltune.nouns.errors.RunError`)."""
    print(f"error: {_one_line(error, declared)}", file=sys.stderr)
    sys.exit(getattr(error, "status", InputError.status))


def _input_error(error: BaseException | None) -> BaseException | None:
    while error is not None:
        if isinstance(error, InputError):
            return error
        inner = getattr(error, "cause", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None


def _one_line(error: BaseException, declared: type | None) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    key = re.search(r"Key '([^']+)' (?:is not in struct|not in)", text) or re.search(
        r"Could not override '([^']+)'", text
    )
    if key and declared is not None:
        return str(_unknown(key.group(1), declared))
    if re.search(r"mismatched input|extraneous input|no viable alternative|token recognition error|NoViableAlt", text):
        return (
            f"{text.partition(' See https')[0]}; a value with = # , ( or é in it needs quotes of both: 'name=\"value\"'"
        )
    choice = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if choice:
        group, _, name = choice.group(1).rpartition("/")
        near = get_close_matches(name, names(group), 1)
        return f"{group}={name} is unknown; known are {', '.join(names(group))}" + (
            f"; did you mean {near[0]}?" if near else ""
        )
    if isinstance(error, OmegaConfBaseException) and "???" in text:
        return f"{text.split(' full_key:')[0]}; for a file of your own: +trace=file trace.path=jobs.csv"
    return text


def _unknown(name: str, declared: type) -> InputError:
    """Names the options that there are in the place of ``name``."""
    path, _, last = name.rpartition(".")
    for here, _, meta in declared_in(declared):
        if here == path and meta.part is not None:
            if last in (known := options_of(declared)):
                return InputError(f"option {name}: {last} is an option of its own: {last}=...")
            known = [each for each, _, _ in declared_in(meta.part, meta.without)]
            return unknown(name, known)
    return unknown(name, options_of(declared) if not path else ["those of conf/ and --help"])
