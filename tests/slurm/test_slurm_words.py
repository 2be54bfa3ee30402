"""Lists of hosts, GRES, array tasks and fields, as Slurm writes them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rltune.nouns.errors import InputError
from rltune.slurm.words import fields, gres, hosts, number, other_gres, ranges, takes_jobs, tasks, word
from rltune.traces.slurm_tres import asked, gpus_of


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("(null)", []),
        ("n1", ["n1"]),
        ("n[1-3,07],gpu1", ["n1", "n2", "n3", "n07", "gpu1"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("r[1-2]n[1-2]x", ["r1n1x", "r1n2x", "r2n1x", "r2n2x"]),
    ],
)
def test_hosts(text: str, names: list[str]) -> None:
    """A job on n[08-11] would be counted on nodes that are none."""
    assert hosts(text) == names


@pytest.mark.parametrize("text", ["n[1-", "n[a-b]", "n[1-99999999]", "n1,,n2", "n]1["])
def test_lists_of_hosts_that_are_none(text: str) -> None:
    """A damaged list would be taken for a node's name."""
    with pytest.raises(InputError, match="list"):
        hosts(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu:a100:8(IDX:0-7)", {"a100": 8}),
        ("gpu:a100:6(IDX:0-5),gpu:a100_3g.40gb:2(IDX:6-7),gpu:a100_1g.10gb:0(IDX:)", {"a100": 6, "a100_3g.40gb": 2, "a100_1g.10gb": 0}),
        ("gpu:8(S:0-1)", {"": 8}),
        ("gpu", {"": 1}),
        ("gpu:a100", {"a100": 1}),
        ("gres:gpu:16", {"": 16}),
        ("gres/gpu:a100:2", {"a100": 2}),
        ("gres/gpu:a100=2,gres/gpu=2", {"a100": 2, "": 2}),
        ("gpu:tesla:no_consume:4", {"tesla": 4}),
        ("mps:400,shard:8,gpu:v100:4(S:0,2)", {"v100": 4}),
        ("(null)", {}),
    ],
)  # fmt: skip
def test_gres(text: str, found: dict[str, int]) -> None:
    """GPUs or slices of a node or a job would be counted wrongly, and jobs started where nothing is free."""
    assert gres(text) == found


def test_other_resources_are_told() -> None:
    """A job on a tenth of a GPU (MPS) would be given a whole one."""
    assert other_gres("gres:mps:50,gres:gpu:1") == ["gres/mps=50"]


KINDS = st.sampled_from(["a100", "h100", "a100_1g.10gb", "nvidia_a100_80gb_pcie_3g.40gb"])


@given(st.dictionaries(KINDS, st.integers(1, 64), min_size=1), st.booleans())
def test_what_is_written_is_read(gpus: dict[str, int], used: bool) -> None:
    """Any node's line, with or without indices of what is used, would be misread; and a job log's words would differ."""
    from rltune.slurm.words import as_tres

    text = ",".join(
        f"gpu:{kind}:{count}" + (f"(IDX:0-{count - 1},99)" if used else "(S:0,1)") for kind, count in gpus.items()
    )
    assert gres(text) == gpus
    assert gpus_of(as_tres(gpus))[0] == sum(gpus.values())


@given(st.sets(st.integers(0, 5_000)))
def test_tasks_come_back(numbers: set[int]) -> None:
    """Tasks of an array would be held that are not meant, or not be released."""
    text = ranges(numbers)
    assert tasks(text)[0] == sorted(numbers) if numbers else text == ""


def test_tasks_with_limit_and_step() -> None:
    """More tasks of an array would be started than its owner allows at once."""
    assert tasks("1-3,7%2") == ([1, 2, 3, 7], 2)
    assert tasks("0-8:4") == ([0, 4, 8], None)


def test_mig_gres_is_read_as_in_job_logs() -> None:
    """A request for slices would be something else beside a live Slurm than in a trace."""
    assert asked("gres/gpu:a100_1g.10gb=2").mig == "1g.10gb"


@pytest.mark.parametrize(
    ("state", "takes"),
    [("IDLE", True), ("MIXED+PLANNED", True), ("ALLOCATED+COMPLETING", True), ("MIXED+DRAIN", False), ("IDLE*", False),
     ("DOWN", False), ("IDLE+MAINTENANCE+RESERVED", False), ("IDLE+POWERED_DOWN", False)],
)  # fmt: skip
def test_states(state: str, takes: bool) -> None:
    """Jobs would be sent to nodes that are drained, down or reserved."""
    assert takes_jobs(state) is takes


def test_numbers_of_both_parsers() -> None:
    """A later Slurm's numbers would be read as nothing."""
    assert number(7) == 7 and number(None) == 0 and number("12") == 12
    assert number({"set": True, "infinite": False, "number": 7}) == 7
    assert number({"set": False, "infinite": False, "number": 7}) == 0
    assert number({"set": True, "infinite": True, "number": 0}) == math.inf
    assert word(["PENDING"]) == "PENDING" and word([]) == "" and word("(null)") == ""


def test_fields_with_blanks() -> None:
    """A reason with blanks would hide the fields behind it."""
    told = fields("NodeName=n1 OS=Linux 6.1 #1 SMP State=IDLE+DRAIN Reason=to be mended [root@2026] Partitions=a,b")
    assert (
        told["Reason"] == "to be mended [root@2026]" and told["Partitions"] == "a,b" and told["State"] == "IDLE+DRAIN"
    )
