"""``python -m rltune.devices recover``: settle what was cut short."""

from __future__ import annotations

import argparse

from rltune.device_commands.adapting import adapter_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(args: argparse.Namespace) -> int:
    """Print what was settled, and how; 0."""
    with adapter_of(args) as adapter:
        lines = adapter.recover()
    print("\n".join(lines) if lines else "Nothing was cut short.")
    return 0
