"""Options of the detailed simulation: nonsense is refused in one line that names the option."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import rltune
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.jobs import JobTable
from rltune.simulator.options import Options

CLUSTER = Cluster("c", (Pool("a", 2, 2), Pool("b", 1, 2)))
NAN, INF = float("nan"), float("inf")
NO_TIMES = ["x", NAN, INF, -INF, -1, True, [1], {}, 10**400, 1e301, 1j, b"1"]
WRONG: dict[str, list[Any]] = {
    "preemptive": [1, 0, "yes", 1.0, [], NAN],
    "quantum_s": [*NO_TIMES, None, 0, 1e-9],
    "suspend_s": [*NO_TIMES, None],
    "resume_s": [*NO_TIMES, None],
    "migrate_s": [*NO_TIMES, None],
    "checkpoint_s": [*NO_TIMES, 0],
    "las_levels_gpu_s": [5, "5", [NAN], [INF], [0], [-1], [2, 1], [1, 1], ["1"], [None], [True], np.arange(99.0)],
    "displace_factor": [*NO_TIMES, None, 0, 0.99],
    "overrun_factor": [*NO_TIMES, None, 0, 0.99],
    "gpu_power": [None, "1", True, NAN, INF, -1, 5],
    "past_jobs": [5, "x", [], [1, 2], {}],
    "gittins_online": [1, 0, "yes", 1.0, []],
    "half_life_s": [*NO_TIMES, None, 0],
    "weights": [5, [1, 2], [1, 2, 3, 0], [1, 2, 3, -1], [1, 2, 3, NAN], [1, 2, 3, INF], "abcd", [1, 2, 3, "x"], [[1], [2, 3]], [1, 2, 3, None]],
    "reservations": [0, -1, 1.5, "1", True, NAN, 2**70],
    "node_mtbf_s": [*NO_TIMES, 0],
    "node_repair_s": [*NO_TIMES, None, 0],
    "gpu_mtbf_s": [*NO_TIMES, 0],
    "max_retries": [-1, 1.5, "1", True, None, NAN, 2**70],
    "node_events": [
        None, 5, "fail", [5], [(0, 0)], [("0", 0, "fail")], [(NAN, 0, "fail")], [(INF, 0, "fail")], [(-1, 0, "fail")],
        [(0, 3, "fail")], [(0, -1, "fail")], [(0, 0.5, "fail")], [(0, "a", "fail")], [(0, True, "fail")],
        [(0, 0, "explode")], [(0, 0, ["fail"])], [(0, 0, None)], [(0, 0, "repair")], [(0, 0, "reopen")],
        [(0, 0, "fail"), (1, 0, "fail")], [(0, 0, "drain"), (1, 0, "repair")], [(5, 0, "fail"), (1, 0, "repair")],
    ],
    "capacity": [
        None, 5, "a", [5], [(0, "a")], [("0", "a", 1)], [(NAN, "a", 1)], [(INF, "a", 1)], [(-1, "a", 1)], [(0, "z", 1)],
        [(0, None, 1)], [(0, "a", 3)], [(0, "a", -1)], [(0, "a", 1.0)], [(0, "a", True)], [(0, "a", "1")],
    ],
    "speed": [1, [1, 2], [[1]] * 4, [[1, 0]] * 4, [[1, -1]] * 4, [[1, NAN]] * 4, [[1, INF]] * 4, "fast", [["x", 1]] * 4],
    "seed": [-1, 1.5, "1", True, None, NAN, 2**64, 2**63],
    "quotas": [5, "x", [5], ["xy"], [("x", 5, 5)], [("x", 5), ("x", 6)], {0: 5, "0": 5}, {"z": 5}, {"x": "5"}, {"x": None}, {"x": NAN}, {"x": INF}, {"x": -1}, {"x": True}, {"x": 2.9}],
    "ways": ["mig", "", 5, True, ["mig_profiles"]],
    "way_rule": [None, "best", 5, True],
    "way_least_speed": [None, "0.5", True, NAN, INF, -0.1, 1.1],
    "speed_error": [None, "0.5", True, NAN, INF, -0.1, 1.0],
    "speed_unknown": [None, "0.5", True, NAN, INF, -0.1, 1.1],
    "speed_learned": [None, "true", 1, []],
    "market_crowd": [*NO_TIMES, None],
    "market_floor": [*NO_TIMES, None],
    "market_refusal": [*NO_TIMES, None],
    "market_patience": [*NO_TIMES, None],
    "mig_reconfiguration": [None, "no", 0, 1.0],
    "mig_mode_s": [None, "5", True, NAN, INF, -1.0],
}  # fmt: skip
ACCEPTED: dict[str, list[Any]] = {
    "preemptive": [None, True, False, np.True_],
    "quantum_s": [1, 0.5, np.float32(2)],
    "suspend_s": [0, 1],
    "resume_s": [0, np.int64(1)],
    "migrate_s": [0, 1.5],
    "checkpoint_s": [None, 1],
    "las_levels_gpu_s": [None, [], (), [1, 2.5], np.array([1.0, 2.0]), (x for x in (1.0, 2.0))],
    "displace_factor": [1, 2.5, np.float64(2)],
    "overrun_factor": [1, 2.5, np.int64(2)],
    "gpu_power": [0, 1, 1.5, np.float64(2)],
    "past_jobs": [None, JobTable.from_columns({"submit_s": [0], "duration_s": [1], "num_gpus": [1]})],
    "gittins_online": [None, True, np.False_],
    "half_life_s": [1],
    "weights": [None, [1, 2, 3, 4], np.ones(4)],
    "reservations": [None, 1, np.int64(3)],
    "node_mtbf_s": [None, 50.0],
    "node_repair_s": [1],
    "gpu_mtbf_s": [None, 50.0],
    "max_retries": [0, 3],
    "node_events": [
        [],
        [(0, 0, "fail"), (1, 0, "repair")],
        [[1, 0, "reopen"], [0, 0, "drain"]],
        iter([(0, 2, "drain")]),
    ],
    "capacity": [[], [(0, "a", 0), (5, "a", 2)], [(0, "b", np.int64(1))]],
    "speed": [None, [[1, 2]] * 4],
    "seed": [0, 2**63 - 1, np.int32(4)],
    "quotas": [None, {}, [], [("x", 3), ["y", 1]], {"x": 3}, {"x": np.float32(3), "y": 1.5}],
    "ways": [None],
    "way_rule": ["fastest", "efficient", "market"],
    "way_least_speed": [0, 1, 0.5, np.float32(0.25)],
    "speed_error": [0, 0.3, np.float32(0.25)],
    "speed_unknown": [0, 1, 0.5],
    "speed_learned": [True, False],
    "market_crowd": [0, 3.5],
    "market_floor": [0, np.float32(1)],
    "market_refusal": [0, 1e6],
    "market_patience": [0, 0.5],
    "mig_reconfiguration": [True, False, np.bool_(True)],
    "mig_mode_s": [0, 5, 2.5, np.float32(0.25)],
}


def simulate(name: str, value: Any) -> rltune.Result:
    vcs = ["x", "x", "x", "y"]
    jobs = JobTable.from_columns(
        {"submit_s": [0, 1, 2, 3], "duration_s": [5, 5, 5, 5], "num_gpus": [1, 2, 3, 1], "vc": vcs}
    )
    policy = "lottery" if name == "weights" else "las" if name in ("preemptive", "quantum_s") else "fifo"
    backfill = "conservative" if name == "reservations" else "skip"
    return rltune.simulate(jobs, CLUSTER, policy=policy, backfill=backfill, **{name: value})


def test_every_option_is_tried() -> None:
    """A new option would take anything, and the simulation fail somewhere inside."""
    names = [field.name for field in fields(Options)]
    assert list(WRONG) == names and list(ACCEPTED) == names


@pytest.mark.parametrize("name", WRONG)
def test_nonsense_is_refused_by_name(name: str) -> None:
    """A typo would give a traceback, or numbers of a simulation that nobody asked for."""
    for value in WRONG[name]:
        if name == "las_levels_gpu_s" and isinstance(value, np.ndarray):
            value = value[::-1]
        with pytest.raises(rltune.InputError) as refused:
            simulate(name, value)
        message = str(refused.value)
        assert message.startswith(name) and "\n" not in message, (value, message)


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_documented_is_taken(name: str) -> None:
    """A legal value, or a number of another library's kind, would be refused."""
    for value in ACCEPTED[name]:
        assert len(simulate(name, value).runs) >= 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes_mtbf_s": 5}, "option nodes_mtbf_s is unknown"),
        ({"policy": "las", "backfill": "easy"}, "suspends jobs"),
        ({"policy": "fifo", "preemptive": True, "backfill": "strict"}, "suspends jobs"),
        ({"policy": "las", "quantum_s": 3.0, "resume_s": 2.0, "migrate_s": 1.0}, "quantum_s=3 is no longer"),
        ({"policy": "srtf", "runtimes": "unknown"}, "policy srtf needs run times"),
        ({"policy": "sjf", "runtimes": "online"}, "policy sjf ranks jobs before they arrive"),
        ({"backfill": "conservative", "runtimes": "unknown"}, "backfill=conservative needs run times"),
        ({"backfill": "blocking", "max_retries": 3}, "backfill=blocking"),
        ({"allocator": "lexicographic", "max_retries": 3}, "allocators"),
        ({"policy": "nonsense", "max_retries": 3}, "nonsense"),
        ({"policy": "srtf", "runtimes": "requested"}, "4 of 4 jobs, first 0, have no requested_s"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    """Two options that contradict each other would silently become one of them."""
    jobs = JobTable.from_columns({"submit_s": [0, 1, 2, 3], "duration_s": [5] * 4, "num_gpus": [1] * 4})
    with pytest.raises(rltune.InputError, match=message) as refused:
        rltune.simulate(jobs, CLUSTER, **options)
    assert "\n" not in str(refused.value)


def test_priorities_below_minus_one_are_no_tickets() -> None:
    """A job would take part in a lottery with a negative number of tickets."""
    jobs = JobTable.from_columns({"submit_s": [0], "duration_s": [5], "num_gpus": [1], "priority": [-1.0]})
    with pytest.raises(rltune.InputError, match="give weights="):
        rltune.simulate(jobs, CLUSTER, policy="wfq")
