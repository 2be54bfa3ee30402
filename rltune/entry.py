"""What every entry point shares: Hydra composes, a wrong option or bad input is one line and exit status 2."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rltune.config import CONF
from rltune.errors import InputError
from rltune.renamed import refuse_old_options


def run_main(task: Callable[[dict[str, Any]], str | None], config_name: str) -> None:
    """Compose ``conf/<config_name>.yaml`` with the command line and run ``task`` on it, once or as a multirun.

    ``task`` gets plain values and returns the run directory, which is printed as
    the last line of standard output; None where it leaves none.
    """
    _refuse_old_words(sys.argv[1:], config_name)
    sys.argv[1:] = [_spelled(word, (CONF / f"{config_name}.yaml").read_text()) for word in sys.argv[1:]]
    # Without this Hydra prints its own shortened traceback and exits with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
    def main(cfg: DictConfig) -> str | None:
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        try:
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
    except KeyboardInterrupt:
        print("error: interrupted; nothing of this run is kept", file=sys.stderr)
        sys.exit(130)
    except (InputError, HydraException, OmegaConfBaseException) as error:
        fail(error)
    except Exception as error:
        # Launchers and Ray wrap what a job raised.
        cause = _input_error(error)
        if cause is None:
            raise
        fail(cause)


def _refuse_old_words(words: list[str], config_name: str) -> None:
    """Exit with one line for an option, or a value of it, that has another name now."""
    known = (CONF / "base.yaml").read_text() + (CONF / f"{config_name}.yaml").read_text()
    given = dict(word.lstrip("+~").split("=", 1) for word in words if "=" in word)
    try:
        refuse_old_options(given, re.findall(r"^(\w+):", known, re.MULTILINE))
    except InputError as error:
        fail(error)


def _spelled(word: str, config: str) -> str:
    """A word of the command line as Hydra wants it."""
    # `trace` is not in the defaults list (every trace is an addition to it), so Hydra wants +trace=; we accept both.
    if word.startswith("trace="):
        return f"+{word}"
    # Keys that the node itself need not have; what they may be is checked where they are used.
    free = ("cluster.", "options.") if re.search("^options:", config, re.MULTILINE) else ("cluster.",)
    return f"++{word}" if word.startswith(free) else word


def fail(error: BaseException) -> None:
    """One line on standard error, exit status 2."""
    print(f"error: {_one_line(error)}", file=sys.stderr)
    sys.exit(2)


def _input_error(error: BaseException | None) -> BaseException | None:
    while error is not None:
        if isinstance(error, InputError):
            return error
        inner = getattr(error, "cause", None)
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in)", text) or re.search(
        r"Could not override '([^']+)'", text
    )
    if unknown:
        return f"option {unknown.group(1)!r} is unknown; the options and their choices stand in conf/ (and in --help)"
    choice = re.search(r"Could not (?:find|load) '([^']+)'", text)
    if choice:
        group, _, name = choice.group(1).rpartition("/")
        known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        return f"{group}={name} is unknown; known are {', '.join(known)}"
    if isinstance(error, OmegaConfBaseException) and "???" in text:
        return f"{text.split(' full_key:')[0]}; for a file of your own: +trace=file trace.path=jobs.csv"
    return text
