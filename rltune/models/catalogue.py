"""What policies are shipped, by name. No PyTorch here: `rltune.rl.policy_file` reads the weights.

A card is of one scheduler: `helios.yaml` of ``helios`` and of ``helios_s1``, the same training with another seed. ``curve`` of a seed: its
learning curve, files of the checkout, the later ones of trainings that began with the policy of the one before.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from rltune.nouns.errors import InputError

FOLDER = Path(__file__).resolve().parent
SUFFIX = ".safetensors"
SEED = re.compile(r"_s\d+$")
"""End of the name of a further seed."""


def models(kind: str = "") -> list[str]:
    """Names of the shipped policies; of one ``kind`` of the cards (scheduler, batches) alone where it is given."""
    named = sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))
    return [name for name in named if not kind or read_card(name)["kind"] == kind]


def file_of(name: str | Path) -> Path | None:
    """The weights of the shipped policy of that name; None where there is none (a path is no name)."""
    path = FOLDER / f"{name}{SUFFIX}"
    return path if re.fullmatch(r"\w+", str(name)) and path.is_file() else None


def read_card(name: str) -> dict[str, Any]:
    """The card of a shipped policy: what it is, data, training, figures, limits. InputError for an unknown name."""
    if file_of(name) is None:
        raise InputError(f"model {name!r} is unknown; known are {', '.join(models())}")
    return dict(yaml.safe_load((FOLDER / f"{SEED.sub('', name)}.yaml").read_text()))
