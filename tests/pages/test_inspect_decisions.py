"""What the inspector says of decisions, beside the run's own schedule."""

from __future__ import annotations

import json

import pytest
from run_cases import crowded, learned, written
from test_inspect_schedules import only

from rltune.allocators.milp import MilpAllocator
from rltune.nouns.errors import InputError


@pytest.fixture(scope="module")
def picked(tmp_path_factory):
    return only(written(tmp_path_factory.mktemp("learned") / "run", learned()))


def test_at_a_start_the_page_names_who_started(picked):
    """Somebody who steps to a start would be shown another decision."""
    names = [x["name"] for x in picked.decisions.about["features"]]
    for at in sorted(set(picked.start_s.tolist())):
        begun = {picked.names[job] for job in picked.job[picked.start_s == at]}
        told = json.loads(json.dumps(picked.decisions.at(at, picked.names), allow_nan=False))["policy"]
        assert told["time"] == at and {step["chosen"]["name"] for step in told["steps"]} - {None} == begun
        for step in told["steps"]:
            # Values are in units again: seconds that it has waited, GPUs that it asks for.
            for row in step["jobs"]:
                seen = dict(zip(names, row["features"], strict=True))
                assert seen["wait"] == pytest.approx(at - picked.submit_s[row["job"]], rel=1e-4, abs=1e-3)
                assert seen["gpus"] == pytest.approx(picked.gpus[row["job"]], rel=1e-4)
            assert step["jobs"][0]["name"] == step["chosen"]["name"] or step["chosen"]["job"] == -1
            scores = [row["score"] for row in step["jobs"] if row["legal"]]
            assert scores == sorted(scores, reverse=True)
    before = picked.decisions.at(picked.begin_s - 1.0, picked.names)
    assert before == {"policy": None, "milp": None} and not any("decisions=true" in line for line in picked.missing)


def test_terms_of_each_level_come_to_its_sum(tmp_path):
    """The table would not add up to the objective below it."""
    run = written(tmp_path / "run", crowded(policy="sjf", allocator=MilpAllocator(time_limit_s=600)))
    seen, other = only(run), 0
    for at in sorted(set(seen.start_s.tolist())):
        told = json.loads(json.dumps(seen.decisions.at(at, seen.names), allow_nan=False))
        assert told["milp"]["time"] == at and told["policy"]["steps"][0]["started"] == int((seen.start_s == at).sum())
        for step in told["milp"]["steps"]:
            other += step["runner_up"] is not None
            for level in (1, 2):
                lines = [line for line in step["lines"] if line["level"] == level]
                assert [line["term"] for line in lines][-1] == "sum" and lines[-1]["bound"] <= lines[-1][
                    "chosen"
                ] + 1e-6
                for side in ("chosen", "runner_up") if step["runner_up"] is not None else ("chosen",):
                    assert sum(line[side] for line in lines[:-1]) == pytest.approx(lines[-1][side])
    assert other > 0
    (run / "milp.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match=r"milp\.parquet: cannot be read"):
        only(run)
