"""``python -m rltune.devices verify spec.yaml``: whether the GPUs are as a spec says."""

from __future__ import annotations

import argparse

from rltune.device_commands.adapting import adapter_of, add_spec, spec_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_spec(parser)


def run(args: argparse.Namespace) -> int:
    """Print what differs; 0 where nothing does, else 1."""
    spec = spec_from(args)
    with adapter_of(args) as adapter:
        lines = adapter.verify(spec)
    print("\n".join(lines) if lines else "The GPUs are as the spec says.")
    return int(bool(lines))
