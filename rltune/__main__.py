"""``rltune COMMAND ...``, which is ``python -m rltune.COMMAND ...``: one name for all commands.

Nothing is imported before it is known what is asked for, so that help and version come at once.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches

import rltune

COMMANDS = {
    "simulate": "one policy on a recorded workload: metrics, schedule, timeline",
    "compare": "runs side by side: simulations, evaluations, trainings, sweeps",
    "inspect": "a page that steps through a run: queue, nodes, why jobs waited",
    "train": "train a policy, keep the best, judge it on jobs it has never seen",
    "evaluate": "a trained policy beside every heuristic, with intervals",
    "report": "one page of evaluations: figures, tables, how made",
    "traces": "job logs: list, describe, convert, fetch",
    "models": "shipped policies and their cards",
    "mig": "MIG partitions: plan batches of tasks, serve tenants",
    "devices": "this machine's GPUs: show, cut into instances, run tasks",
    "serve": "the live service: decides for a running cluster, over HTTP",
    "live": "the live service shown: a trace replayed on simulated GPUs",
    "client": "talk to a live service: submit, watch, cancel",
    "slurm": "beside a Slurm cluster: its queue in our order",
    "kubernetes": "beside Kubernetes: Kueue admission checks, scheduling gates",
    "workloads": "small real tasks to try GPUs with",
    "warm": "compile the kernels ahead (otherwise at their first use)",
    "bench": "measure the speed figures",
}
EXAMPLES = """first steps:
  rltune simulate +trace=synthetic policy=sjf      made-up jobs, no file needed
  rltune simulate -m +trace=synthetic policy=fifo,sjf,las  three rules
  rltune traces describe jobs.csv                    your own log: what is in it
  rltune simulate -m +trace=jobs.csv policy=fifo,sjf,las   on your log
  rltune compare runs/ONE runs/OTHER                 any runs side by side

rltune COMMAND --help tells all of one command, with its options.
Each is also python -m rltune.COMMAND.
Completion: eval "$(rltune completion bash)" (or zsh)."""
SHELLS = ("bash", "zsh")


def main(words: Sequence[str] | None = None) -> int:
    """Run a command in this process; its exit status where it does not end the process itself."""
    words = sys.argv[1:] if words is None else list(words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0 if words else 2
    name, *rest = words
    if name in ("-V", "--version"):
        print(f"rltune {rltune.__version__}")
        return 0
    if name == "completion":
        return complete(rest)
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: rltune {name[:80]!r}: no such command; {meant} (rltune --help)", file=sys.stderr)
        return 2
    # As `python -m` does it: Ray, Hydra and worker processes look into `__main__`.
    sys.argv = [f"rltune {name}", *rest]
    runpy.run_module(f"rltune.{name}", run_name="__main__", alter_sys=True)
    return 0


def help_text() -> str:
    """What there is, in one screen."""
    told = "\n".join(f"  {name.ljust(11)}{what}" for name, what in COMMANDS.items())
    return (
        f"rltune {rltune.__version__}: schedules jobs on GPU clusters, and measures who schedules better.\n\n"
        f"usage: rltune COMMAND ...\n\ncommands:\n{told}\n\n{EXAMPLES}"
    )


def complete(shell: Sequence[str]) -> int:
    """Print the completion script of a shell."""
    if len(shell) != 1 or shell[0] not in SHELLS:
        print(f"error: rltune completion: name a shell, {' or '.join(SHELLS)}", file=sys.stderr)
        return 2
    # Loads the declarations of all options, which no other command waits for.
    from rltune.config.completion import script
    from rltune.device_commands.main import COMMANDS as DEVICES
    from rltune.mig_commands.main import COMMANDS as MIG
    from rltune.traces.__main__ import COMMANDS as TRACES
    from rltune.workloads.__main__ import WORKLOADS

    inner = {"devices": list(DEVICES), "mig": list(MIG), "workloads": list(WORKLOADS), "traces": list(TRACES)}
    print(script(shell[0], list(COMMANDS), inner))
    return 0


if __name__ == "__main__":
    sys.exit(main())
