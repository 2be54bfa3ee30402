"""``python -m rltune.workloads matmul|mlp|lstm|images|boosting``: run one task, print one line of JSON at the end.

Exit status 2 for options that make no sense, 3 where the task does not fit in memory; one line on standard error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from rltune.nouns.errors import InputError
from rltune.workloads.task import Options

WORKLOADS = {
    "matmul": "products of large matrices (PyTorch)",
    "mlp": "a multilayer perceptron on synthetic regression (PyTorch)",
    "lstm": "an LSTM that forecasts sine waves (PyTorch)",
    "images": "a convolutional network on handwritten digits (PyTorch)",
    "boosting": "gradient-boosted trees on synthetic classes (scikit-learn; CPU only)",
}
"""Name, also that of its module -> what it is."""


class _Parser(argparse.ArgumentParser):
    """Bad options as one line, as everywhere in rltune."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


def parser() -> argparse.ArgumentParser:
    """A subcommand a workload."""
    found = _Parser(prog="python -m rltune.workloads", description="Small real tasks for GPUs, or for the CPU.")
    commands = found.add_subparsers(dest="workload", required=True, metavar="WORKLOAD")
    for name, what in WORKLOADS.items():
        one = commands.add_parser(name, help=what, description=f"{what}; sizes by device unless given, and printed.")
        counted = "--epochs" if name == "images" else "--steps"
        one.add_argument(counted, dest="steps", type=int, metavar="N", help="how long to run (default: by device)")
        one.add_argument(
            "--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: CUDA where there is some"
        )
        one.add_argument("--seed", type=int, default=0, help="the same seed gives the same data and weights")
        one.add_argument(
            "--scale", type=float, default=1.0, help="multiplies the size of the model (boosting: the rows)"
        )
        one.add_argument(
            "--threads", choices=("slices",), help="on the CPU: as many threads as RLTUNE_COMPUTE_SLICES says"
        )
        if name == "matmul":
            one.add_argument("--size", type=int, metavar="N", help="rows and columns of the matrices")
    return found


def run(words: Sequence[str]) -> str:
    """Run the workload that the words name; its line of JSON. InputError for bad options."""
    given = vars(parser().parse_args(words))
    workload = given.pop("workload")
    options = Options(**given)
    # PyTorch takes seconds to load, and boosting does without.
    module = import_module(f"rltune.workloads.{workload}")
    if workload == "boosting":
        return module.run(options).line()
    from rltune.workloads.pytorch import fitting

    with fitting():
        return module.run(options).line()


def main() -> None:
    """Run and print; one line and an exit status where that fails."""
    try:
        print(run(sys.argv[1:]), flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "exit_status", 2))


if __name__ == "__main__":
    main()
