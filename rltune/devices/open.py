"""From a device's name on the command line to its driver."""

from __future__ import annotations

import os
import re
from pathlib import Path

from rltune.devices.driver import Driver
from rltune.errors import InputError

SPELLED = re.compile(r"(?:(\d+)x)?([\w.-]+)")
MOST_GPUS = 1024
"""No machine has more; a count beyond is a slip."""


def open_device(text: str, store: Path | None = None, pace: float = 1.0) -> Driver:
    """The driver that ``text`` names: ``nvml``, or ``simulated:a100-80gb``, ``simulated:2xa100-80gb,a30``.

    A simulated machine lives in a file under ``store`` (default `store_path`), so that the next command finds it as this one
    left it. Raises InputError for a name that is none, `rltune.devices.status.DeviceError` where no driver is installed.
    """
    kind, _, rest = text.partition(":")
    if kind == "nvml" and not rest:
        # Each loads only its own: pynvml is not needed to rehearse, nor the geometry tables to read a real GPU.
        from rltune.devices.nvml import NvmlDriver

        return NvmlDriver()
    if kind != "simulated":
        raise InputError(f"device {text!r} is unknown; known are nvml and simulated:MODELS (simulated:2xa100-80gb,a30)")
    from rltune.devices.simulated import SimulatedDriver

    models = simulated_models(rest)
    file = (store or store_path()) / f"simulated-{rest.lower().replace(',', '-')}.json"
    return SimulatedDriver(models, pace, file)


def simulated_models(text: str) -> list[str]:
    """``2xa100-80gb,a30`` as a list of models, one a GPU; InputError otherwise."""
    models: list[str] = []
    for word in text.split(","):
        found = SPELLED.fullmatch(word.strip())
        if not found or not 1 <= int(found[1] or 1) <= MOST_GPUS:
            raise InputError(f"simulated:{text}: {word!r} is no model or count; write simulated:2xa100-80gb,a30")
        models += [found[2]] * int(found[1] or 1)
    if len(models) > MOST_GPUS:
        raise InputError(f"simulated:{text}: {len(models)} GPUs; at most {MOST_GPUS}")
    return models


def store_path() -> Path:
    """Where journal, tenants and simulated devices live: RLTUNE_STATE, else /var/lib/rltune for root, else the user's own."""
    given = os.environ.get("RLTUNE_STATE")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/rltune")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "rltune"
