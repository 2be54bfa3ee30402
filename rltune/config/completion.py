"""What a shell offers at TAB: commands, their sub-commands or options, and the names that options take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rltune.config.choices import names
from rltune.config.commands import Evaluate, Simulate, Train
from rltune.config.declare import declared_in, groups
from rltune.models.catalogue import models
from rltune.policies.orders import ORDERS
from rltune.policies.preemptive import PREEMPTIVE

DECLARED: Mapping[str, type] = {"simulate": Simulate, "train": Train, "evaluate": Evaluate}
TAKES_POLICY = ("policy", "baseline")

BASH = """# rltune: completion for bash, and for zsh by bashcompinit
_rltune() {{
  local words="{commands}" cur="${{COMP_WORDS[COMP_CWORD]}}"
  if ((COMP_CWORD > 1)); then
    case "${{COMP_WORDS[1]}}" in
{cases}
      *) words="" ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur") $(compgen -f -- "$cur"))
}}
COMP_WORDBREAKS="${{COMP_WORDBREAKS//=}}"
complete -o nospace -F _rltune rltune"""


def script(shell: str, commands: Sequence[str], inner: Mapping[str, Sequence[str]]) -> str:
    """The script for ``bash`` or ``zsh``; ``inner``: words that may follow a command, beside the declared options."""
    follow = {name: list(words) for name, words in inner.items()}
    follow |= {name: list(dict.fromkeys(options(declared))) for name, declared in DECLARED.items()}
    cases = "\n".join(f'      {name}) words="{" ".join(words)}" ;;' for name, words in follow.items())
    bash = BASH.format(commands=" ".join([*commands, "completion"]), cases=cases)
    return bash if shell == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{bash}"


def options(declared: type) -> Iterator[str]:
    """``NAME=`` of each option, and ``NAME=VALUE`` where it takes names."""
    chosen = groups(declared)
    for name, _, meta in declared_in(declared):
        if meta.part is not None:
            yield from (f"{name}.{inner}=" for inner, _, _ in declared_in(meta.part, meta.without))
        elif name == "trace":
            yield from (f"+trace={each}" for each in names("trace"))
        elif name in chosen:
            yield from (f"{name}={each}" for each in names(name))
        elif name in TAKES_POLICY:
            yield from (f"{name}={each}" for each in (*ORDERS, *PREEMPTIVE, *models("scheduler")))
        elif meta.choices:
            yield from (f"{name}={each}" for each in meta.choices)
        else:
            yield f"{name}="
