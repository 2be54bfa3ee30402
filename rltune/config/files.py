"""Where the YAML files of conf/ lie: clusters and traces, which are data and not options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parent.parent.parent / "conf"
"""The folder of the checkout (rltune is installed in place: ``pip install -e .``)."""


def named(group: str) -> list[str]:
    """Names of the files of a folder of conf/, e.g. ``cluster``."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def read_conf(group: str, name: str) -> dict[str, Any]:
    """One of them."""
    return dict(yaml.safe_load((CONF / group / f"{name}.yaml").read_text()))
