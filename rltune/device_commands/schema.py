"""``python -m rltune.devices schema spec``: the JSON schema of a file that people write, for editors and other programs."""

from __future__ import annotations

import argparse
import json

from rltune.devices.execution.tasks_file import TaskFile
from rltune.devices.spec import SpecFile
from rltune.nouns.checked import Checked
from rltune.nouns.cluster import ClusterSpec

FILES: dict[str, type[Checked]] = {"spec": SpecFile, "tasks": TaskFile, "cluster": ClusterSpec}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("file", choices=FILES, help="which kind of file")


def run(args: argparse.Namespace) -> int:
    """Print the schema; 0."""
    print(json.dumps(FILES[args.file].model_json_schema(), indent=2))
    return 0
