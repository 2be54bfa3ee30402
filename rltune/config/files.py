"""Where the YAML files of conf/ lie: clusters and traces, which are data and not options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).resolve().parent.parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""In an installed package the folder that the wheel brought along; in a checkout conf/ beside the package."""


def named(group: str) -> list[str]:
    """Names of the files of a folder of conf/, e.g. ``cluster``."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def read_conf(group: str, name: str) -> dict[str, Any]:
    """One of them."""
    return dict(yaml.safe_load((CONF / group / f"{name}.yaml").read_text()))
