"""``python -m rltune.mig states gpu=a100-80gb``: partitions of a GPU, with their configuration numbers."""

from __future__ import annotations

from rltune.mig.configurations import configurations
from rltune.mig.geometry import geometry
from rltune.nouns.errors import InputError


def print_states(words: list[str]) -> None:
    """Profiles with their legal starts, then every maximal partition; ``all=true``: every state."""
    given = dict(word.partition("=")[::2] for word in words)
    unknown = sorted(set(given) - {"gpu", "all"})
    if unknown or given.get("all", "false") not in ("true", "false"):
        raise InputError(f"option {(unknown or ['all'])[0]!r}: accepted are gpu=a100-80gb and all=true|false")
    table = geometry(given.get("gpu", "a100-80gb"))
    print(f"{table.model}: {table.slices} memory slices, {table.compute} compute slices")
    for profile in table.profiles:
        starts = ",".join(map(str, profile.starts))
        print(f"  {profile.name:<14} size {profile.size}  starts {starts:<13}  at most {profile.most}"
              f"  create {profile.create_s:.2f} s  destroy {profile.destroy_s:.2f} s")  # fmt: skip
    states = configurations(table) if given.get("all") == "true" else table.maximal()
    for number, state in enumerate(states):
        print(f"{number:>4}  {table.describe(state)}")
