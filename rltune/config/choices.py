"""Nodes chosen by name, ``algo=ppo`` or ``allocator=milp``: what names there are, and the options of each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rltune.allocators.milp import MilpAllocator
from rltune.config.declare import check, defaults, option
from rltune.config.files import named
from rltune.config.learning import ALGORITHMS, PROTOCOLS
from rltune.nouns.errors import InputError
from rltune.nouns.throughput import MISSING


@dataclass
class Rule:
    """An allocator that places one job after the other by a rule."""


@dataclass
class Measured:
    """Measured speeds of GPU types."""

    reference: str | None = option(
        None, "type of the recorded run where a job names none; null: the table's own (V100, for sia T4)"
    )
    missing: str = option(
        "refuse",
        "types without measurement; flops: scale by peak FLOPS, one: equally fast, assumed: an A100 by class of job",
        choices=MISSING,
    )
    draw: int | None = option(
        None, "seed by which jobs whose name tells no class are each given one; null: the median of all", least=0
    )


@dataclass
class Drawn:
    """Classes drawn for jobs that name none."""

    draw: int = option(0, "seed by which each job is given a class, one in two that of its user", least=0)


@dataclass
class Equal:
    """Every GPU type is equally fast."""


WHOLE_ONLY = "whole GPUs only"
ALLOCATORS = {
    "milp": "starts, GPU types, nodes and MIG slices of the first jobs jointly (docs/concepts/allocator.md)",
    "best_fit": "the fullest node with room",
    "lexicographic": f"the lowest node ids, as RLTune places; {WHOLE_ONLY}",
    "least_fragmentation": f"the smallest rise of the fragmentation cost; {WHOLE_ONLY}",
    "first_fit": "the lowest node with room",
    "least_loaded": "the node with most free GPUs: spreads jobs over the cluster",
    "random": "any node with room, drawn by seed",
    "dot_prod": "the smallest dot product of what is free and what is asked (openb experiment of FGD)",
    "gpu_clustering": "nodes that host jobs of the same GPU request first (openb experiment of FGD)",
    "gpu_packing": "GPUs already shared, then nodes in use, then idle nodes (openb experiment of FGD)",
    "fgd": "where the expected fragmentation grows least (FGD, as published)",
    "stranding": "as fgd; GPUs starved of CPU or memory and gaps that no other share fills count as lost",
}
"""What each does. Training and evaluation know milp and the rules for whole GPUs."""
THROUGHPUTS = {
    "none": "every GPU type is equally fast: jobs run as long as their log says, wherever they are placed",
    "published": "medians of Gavel's table: P100 3.32 and V100 4.05 times a K80 (OSDI 2020); needs no file",
    "gavel": "isolated throughputs of 26 job types on K80, P100 and V100, 1 to 8 GPUs (OSDI 2020)",
    "gavel_physical": "Gavel's measurements on its physical cluster",
    "shockwave": "measurements at TACC, in Gavel's format (NSDI 2023)",
    "classes": "each job one of Gavel's 26 types, drawn by a seed, A100s as assumed; made-up types where that file is absent",
    "sia": "throughputs of one T4 and one A100 (SOSP 2023)",
}
"""What each is; all but none, published and classes need files in RLTUNE_TRACES."""
CHOICES: dict[str, Mapping[str, type]] = {
    "algo": ALGORITHMS,
    "protocol": PROTOCOLS,
    "allocator": dict.fromkeys(ALLOCATORS, Rule) | {"milp": MilpAllocator},
    "throughput": dict.fromkeys(THROUGHPUTS, Measured) | {"none": Equal, "classes": Drawn},
}
"""Group -> name -> what declares its options. Clusters and traces are the files of conf/cluster and conf/trace."""
WITHOUT = {"allocator": ("demand",)}
"""Fields that no option sets."""
FILES_OF = ("cluster", "trace")


def names(group: str) -> list[str]:
    """Choices of a group."""
    return named(group) if group in FILES_OF else sorted(CHOICES[group])


def node(group: str, name: str) -> dict[str, Any]:
    """The node that ``GROUP=NAME`` stands for: its name and the options with their defaults."""
    return {"name": name, **defaults(CHOICES[group][name], WITHOUT.get(group, ()))}


def meaning(group: str, name: str) -> str:
    """One line on a choice, for --help."""
    meanings = {"allocator": ALLOCATORS, "throughput": THROUGHPUTS}.get(group)
    return meanings[name] if meanings else inspect.cleandoc(CHOICES[group][name].__doc__ or "")


def check_node(group: str, given: Mapping[str, Any]) -> None:
    """Refuse options that the choice does not take, or of another kind than it takes."""
    options = {key: value for key, value in given.items() if key != "name"}
    if given.get("name") not in CHOICES[group]:
        raise InputError(f"{group}={given.get('name')} is unknown; known are {', '.join(names(group))}")
    declared, without = CHOICES[group][given["name"]], WITHOUT.get(group, ())
    if options and not defaults(declared, without):
        raise InputError(f"option {group}.{next(iter(options))} is unknown: {group}={given['name']} has no options")
    check(declared, options, f"{group}.", without)
