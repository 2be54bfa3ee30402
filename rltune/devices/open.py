"""From a device's name on the command line to its driver."""

from __future__ import annotations

import hashlib
import math
import os
import re
from pathlib import Path

from rltune.devices.driver import Driver
from rltune.nouns.errors import InputError

SPELLED = re.compile(r"(?:(\d+)x)?([\w.-]+)", re.ASCII)
MOST_GPUS = 1024
"""No machine has more; a count beyond is a slip."""
LONGEST_NAME = 100
"""Characters of a simulated machine's name in its file's; a longer one is cut and hashed, as file systems take 255 bytes."""


def open_device(text: str, store: Path | None = None, pace: float = 1.0) -> Driver:
    """The driver that ``text`` names: ``nvml``, or ``simulated:a100-80gb``, ``simulated:2xa100-80gb,a30``.

    A simulated machine lives in a file under ``store`` (default `store_path`), so that the next command finds it as this one
    left it. Raises InputError for a name or pace that is none, `rltune.devices.status.DeviceError` where no driver is installed.
    """
    check_pace(pace)
    kind, _, rest = text.partition(":")
    if kind == "nvml" and not rest:
        # Each loads only its own: pynvml is not needed to rehearse, nor the geometry tables to read a real GPU.
        from rltune.devices.nvml import NvmlDriver

        return NvmlDriver()
    if kind != "simulated":
        raise InputError(f"device {text!r} is unknown; known are nvml and simulated:MODELS (simulated:2xa100-80gb,a30)")
    from rltune.devices.simulated import SimulatedDriver

    models = driver_tables(rest)
    name = rest.lower().replace(",", "-")
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return SimulatedDriver(models, pace, (store or store_path()) / f"simulated-{name}.json")


def check_pace(pace: float) -> None:
    """InputError for a share of the documented seconds that nobody can wait."""
    if not (math.isfinite(pace) and pace >= 0):
        raise InputError(f"--pace {pace}: a number from 0 is needed (1: as long as documented, 0: at once)")


def driver_tables(text: str) -> list[str]:
    """``2xa100-80gb,a30`` as a list of models, one a GPU; InputError otherwise."""
    models: list[str] = []
    for word in text.split(","):
        found = SPELLED.fullmatch(word.strip())
        # By its length first: Python refuses to read numbers of thousands of digits.
        if not found or len(found[1] or "1") > 4 or not 1 <= int(found[1] or 1) <= MOST_GPUS:
            raise InputError(f"simulated:{text}: {word!r} is no model or count; write simulated:2xa100-80gb,a30")
        models += [found[2]] * int(found[1] or 1)
    if len(models) > MOST_GPUS:
        raise InputError(f"simulated:{text}: {len(models)} GPUs; at most {MOST_GPUS}")
    return models


def store_path() -> Path:
    """Where journal, tenants and simulated devices live: RLTUNE_STATE, else /var/lib/rltune for root, else the user's own.

    InputError where a user has no home.
    """
    given = os.environ.get("RLTUNE_STATE")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/rltune")
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "rltune"
    except RuntimeError:
        raise InputError(
            "this user has no home directory; set RLTUNE_STATE to a folder for journal and tenants"
        ) from None
