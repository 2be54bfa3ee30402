"""What every entry point shares: Hydra composes, a wrong option or bad input is one line and exit status 2."""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rltune.config.choices import CHOICES, WITHOUT, check_node, meaning, names, node
from rltune.config.declare import check, declared_in, defaults, groups, help_lines, unknown
from rltune.config.files import CONF
from rltune.nouns.errors import InputError, Interrupted
from rltune.nouns.renamed import refuse_old_options


def run_main(task: Callable[[dict[str, Any]], str | None], declared: type, footer: str = "") -> None:
    """Put the options of ``declared`` and the command line together and run ``task`` on them, once or as a multirun.

    ``task`` gets plain values, checked, and returns the run directory, which is printed as
    the last line of standard output; None where it leaves none. ``footer``: last lines of --help.
    """
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print("\n".join(help_of(declared, footer)))
        return
    try:
        refuse_old_options(dict(word.lstrip("+~").split("=", 1) for word in words if "=" in word), options_of(declared))
    except InputError as error:
        fail(error)
    sys.argv[1:] = [spelled(word, declared) for word in words]
    # Without this Hydra prints its own shortened traceback and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    store(declared)

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=declared.__name__)
    def main(cfg: DictConfig) -> str | None:
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        try:
            check_all(declared, plain)
            path = task(plain)
        except InputError as error:
            # Hydra would print the failed overrides first; in a multirun the launcher has to see the error itself.
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                fail(error)
            raise
        if path is not None:
            print(path, flush=True)
        return path

    try:
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
    if not equals or PLAIN_PATH.fullmatch(value) or not os.path.lexists(value):
        return word
    # Before a quote backslashes count double; ${ would be taken for another option's value.
    guarded = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"{name}='{guarded.replace('${', chr(92) + '${')}'"


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
        return f"{group}={name} is unknown; known are {', '.join(names(group))}"
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
