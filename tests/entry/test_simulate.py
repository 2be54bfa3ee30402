"""`python -m rltune.simulate` and `python -m rltune.compare` as a user types them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from entry_cases import Command, Told

import rltune
from rltune import compare as comparing
from rltune.config import changed_cluster
from rltune.experiment.comparison import comparison, read_run
from rltune.nouns.cluster import Cluster, Pool
from rltune.nouns.errors import InputError

QUICK = ("+trace=synthetic", "trace.jobs=200", "trace.arrivals_per_h=600", "nodes=4", "progress=false")
ROOT = Path(rltune.__file__).parent.parent


@pytest.fixture
def simulate(command: Command) -> Callable[..., Told]:
    """``simulate("+trace=...")`` -> (exit status, standard output, standard error), in this process."""
    return partial(command, "simulate")


def made(told: Told) -> Path:
    """The run directory of a good run."""
    status, out, err = told
    assert status == 0, err
    return Path(out.splitlines()[-1])


def summary_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


def test_a_run_leaves_its_directory_and_says_what_the_function_says(simulate: Callable[..., Told]) -> None:
    """The command would simulate something else than a notebook with the same words, or leave files out."""
    told = simulate(*QUICK, "policy=sjf", "backfill=easy", "allocator=lexicographic")
    run = made(told)
    files = {path.name for path in run.iterdir()}
    assert files == {
        "config.yaml", "manifest.json", "summary.json", "jobs.parquet", "runs.parquet", "timeline.parquet", "timeline.png",
        "pools.parquet",
    }  # fmt: skip
    trace = rltune.load_trace("synthetic", jobs=200, arrivals_per_h=600.0, median_s=600.0, mean_s=3600.0)
    cluster = rltune.load_cluster("uniform").with_nodes(4)
    result = rltune.simulate(trace, cluster, policy="sjf", backfill="easy", allocator="lexicographic")
    summary = summary_of(run)
    assert (summary["schema_version"], summary["command"]) == (1, "simulate")
    assert summary["policies"] == {"sjf-easy-exact-lexicographic": json.loads(json.dumps(result.summary()))}
    assert summary["bounds"] == json.loads(json.dumps(result.bounds()))
    assert (summary["cluster"]["nodes"], summary["cluster"]["gpus"]) == (4, 32)
    jobs = pd.read_parquet(run / "jobs.parquet")
    assert np.allclose(jobs.wait_s, result.scores()["wait_s"]) and jobs.finished.all()
    assert len(pd.read_parquet(run / "runs.parquet")) == 200
    assert "at most" in told[1] and "Jain" not in told[1]  # these jobs have no tenants
    assert "lower bounds of any schedule without preemption" in told[1]


def test_decisions_are_left_where_they_are_asked_for(simulate: Callable[..., Told]) -> None:
    """The inspector would have nothing to show, or a run would say that it holds what it lacks."""
    run = made(simulate(*QUICK, "policy=sjf", "allocator=milp", "decisions=true"))
    decisions, jobs = pd.read_parquet(run / "decisions.parquet"), pd.read_parquet(run / "jobs.parquet")
    assert sum(map(len, decisions.started)) == len(jobs) and len(pd.read_parquet(run / "milp.parquet")) > 0
    status, _, err = simulate(*QUICK, "policy=sjf", "backfill=blocking", "decisions=true")
    assert status != 0 and "decisions=true: under backfill=blocking" in err


def test_exports_are_the_schedule(simulate: Callable[..., Told]) -> None:
    """A trace viewer would refuse the file, or draw two runs of a node over one another."""
    run = made(simulate(*QUICK, "export=[csv,parquet,chrome]"))
    schedule = pd.read_csv(run / "schedule.csv", dtype={"nodes": str, "gpus": str})
    exact = pd.read_parquet(run / "schedule.parquet")
    assert schedule.start_s.tolist() == exact.start_s.tolist()
    assert [len(nodes.split(";")) for nodes in schedule.nodes] == [len(nodes) for nodes in exact.nodes]
    loaded = json.loads((run / "trace.json").read_text())
    slices = [event for event in loaded["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == sum(len(nodes) for nodes in exact.nodes)
    one = exact[exact.job_id == slices[0]["name"]].iloc[0]
    assert slices[0]["ts"] == round(one.start_s * 1e6) and slices[0]["dur"] == round((one.end_s - one.start_s) * 1e6)
    named = {(e["pid"], e["tid"]) for e in loaded["traceEvents"] if e["ph"] == "M" and e["name"] == "thread_name"}
    by_thread: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in slices:
        by_thread.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert set(by_thread) == named
    for spans in by_thread.values():
        spans.sort()
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_groups_are_written_where_there_are_some(simulate: Callable[..., Told], here: Path) -> None:
    """Who waits for whom would not be seen, or a table of one line be written."""
    rows = [f"j{k},{k * 10},{k % 7 * 90 + 5},{k % 3 + 1},{'ab'[k % 2]},u{k % 5}" for k in range(80)]
    (here / "jobs.csv").write_text("\n".join(["job_id,submit_s,duration_s,num_gpus,vc,user", *rows]) + "\n")
    told = simulate("trace=file", "trace.path=jobs.csv", "nodes=1", "progress=false")
    run = made(told)
    assert pd.read_csv(run / "by_vc.csv").jobs.tolist() == [40, 40]
    assert len(pd.read_csv(run / "by_user.csv")) == 5
    assert not (run / "by_priority.csv").exists()
    assert "fairness by user  5 tenants" in told[1]


@pytest.mark.parametrize(
    ("options", "jobs"),
    [(["begin=50", "end=120"], 70), (["begin=0.5"], 100), (["end=0.25"], 50), (["begin=150"], 50), (["limit=7"], 7),
     (["begin=20", "limit=1"], 1)],
)  # fmt: skip
def test_stretches(simulate: Callable[..., Told], options: list[str], jobs: int) -> None:
    """begin= or end= alone would mean another stretch than it says."""
    assert summary_of(made(simulate(*QUICK, *options)))["trace"]["jobs"] == jobs


def test_other_knowledge_and_allocators(simulate: Callable[..., Told]) -> None:
    """runtimes=predicted of a stretch would forget what came before it; allocator=milp would place greedily."""
    run = made(simulate(*QUICK, "begin=150", "policy=sjf", "runtimes=predicted", "allocator=milp"))
    (row,) = summary_of(run)["policies"].values()
    assert row["allocator"]["calls"] > 0
    trace = rltune.load_trace("synthetic", jobs=200, arrivals_per_h=600.0, median_s=600.0, mean_s=3600.0)
    from rltune.policies.knowledge import known_run_times

    late = trace.take(slice(150, 200))
    cluster = rltune.load_cluster("uniform").with_nodes(4)
    known = known_run_times(trace.jobs, "predicted")[150:]
    expected = rltune.simulate(late, cluster, policy="sjf", runtimes=known, allocator="milp")
    assert row["jct_s"]["mean"] == pytest.approx(expected.scores()["jct_s"].mean(), rel=0.05)


def test_a_dropped_job_is_told(simulate: Callable[..., Told], here: Path) -> None:
    """A job that can never run would vanish without a word; a run of nothing else would be a stack trace."""
    (here / "jobs.csv").write_text("job_id,submit_s,duration_s,num_gpus\na,0,10,1\nbig,5,10,900\n")
    options = ("trace=file", "trace.path=jobs.csv", "cluster=uniform", "progress=false")
    assert simulate(*options)[0] == 2
    told = simulate(*options, "oversized=drop")
    assert summary_of(made(told))["policies"]["fifo-skip-exact-best_fit"]["unfinished"] == 1
    assert "job big (row 2 by submit time) wants 900 GPUs" in told[1]
    (here / "jobs.csv").write_text("job_id,submit_s,duration_s,num_gpus\nbig,5,10,900\n")
    assert "no job finished" in simulate(*options, "oversized=drop")[1]


BAD: dict[str, str] = {
    "policy=foo": "policy 'foo' is unknown; known are fifo",
    "policy=[a]": "policy=['a']; a text is needed",
    "backfill=fill": "backfill='fill' is unknown",
    "allocator=worst": "allocator=worst is unknown; known are best_fit",
    "runtimes=all": "runtimes='all' is unknown",
    "runtimes=unknown policy=sjf": "policy sjf needs run times",
    "oversized=maybe": "oversized='maybe' is unknown",
    "begin=yesterday": "'yesterday' is no date",
    "begin=-5": "jobs [-5, 200) do not lie within",
    "begin=0.5 end=0.2": "fractions 0.5, 0.2 do not rise",
    "begin=[1,2]": "begin=[1, 2]; a date, a job number",
    "limit=0": "limit=0; a whole number of at least 1",
    "nodes=x": "nodes='x'; a whole number",
    "cluster.nodes=0": "nodes=0",
    "cluster.pools.7.nodes=3": "cluster.pools.7: cluster fitted has no such pool; known are 0 (nodes)",
    "cluster.pools.0.nodes=-1": "pool nodes: nodes=-1; at least 1 is needed",
    "cluster.pools.0.gpus=3": "'gpus' is unknown; known are name, nodes, gpus_per_node",
    "cluster.pools.0=null": "no pools; at least one is needed",
    "cluster.size=3": "option cluster.size is unknown; known are pools, nodes, name",
    "cluster.spec.name=x": "option cluster.spec needs cluster=NAME",
    "options.quark=5": "option options.quark is unknown; known are preemptive, quantum_s",
    "options.policy=sjf": "option options.policy: policy is an option of its own",
    "options=3": "options=3; give single ones",
    "export=[pdf]": "export=['pdf']; a list of csv, parquet, chrome is needed",
    "step_s=0": "step_s=0; a number of seconds above 0",
    "step_s=1e-9": "steps; at most 10,000,000 are possible",
    "seed=-1": "seed=-1; a whole number of at least 0",
    "name=a/b": "name='a/b' is no directory name",
    "discpline=easy": "option discpline is unknown; known are",
}


@pytest.mark.parametrize("options", list(BAD))
def test_bad_options(options: str, simulate: Callable[..., Told], here: Path) -> None:
    """A typing error would be a stack trace, or be passed over and the user believe it was obeyed."""
    words = options.split()
    own = {word.split("=")[0] for word in words}
    status, _, err = simulate(*[word for word in QUICK if word.split("=")[0] not in own], *words)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1, err
    assert BAD[options] in errors[0] and "Traceback" not in err
    assert not (here / "runs").exists() or not any(p.name[0] != "." for p in (here / "runs").iterdir())


@pytest.mark.parametrize("plus", ["", "+"])
def test_options_of_the_simulation_are_typed_and_told(simulate: Callable[..., Told], plus: str) -> None:
    """An option would need a + that no other needs, be taken as text, or be passed over."""
    words = (f"{plus}options.resume_s=60", f"{plus}options.quotas={{x: 8}}", "options.max_retries=10")
    summary = summary_of(made(simulate(*QUICK, "policy=las", "trace.vcs=2", "options.quotas.vc0=16", words[0])))
    assert summary["simulation"]["options"] == {"resume_s": 60, "quotas": {"vc0": 16}}
    assert simulate(*QUICK, words[1])[0] == 2  # these jobs have no VC x
    # A default that is spelled out changes nothing, not even the loop.
    assert summary_of(made(simulate(*QUICK, words[2])))["simulation"]["options"] == {}
    for option, said in {
        "options.resume_s=soon": "options.resume_s='soon'; a number is needed",
        "options.max_retries=1.5": "options.max_retries=1.5; a whole number is needed",
        "options.quantum_s=0": "quantum_s=0; give seconds above 0",
    }.items():
        assert f"error: {said}" in simulate(*QUICK, option)[2]


def test_help_says_every_option(simulate: Callable[..., Told]) -> None:
    """A user would have to read the source to learn what an option means."""
    status, out, _ = simulate("--help")
    assert status == 0
    for said in ("resume_s: 0.0", "unknown; what is known of run times", "medians of Gavel"):
        assert said in out


def test_pools_changed_on_the_command_line(simulate: Callable[..., Told]) -> None:
    """A what-if on machines would simulate the old ones."""
    run = made(
        simulate(
            *[word for word in QUICK if word != "nodes=4"], "cluster=rltune_philly", "cluster.pools.0.nodes=3",
            "cluster.pools.large.gpu_type=V100", "cluster.pools.2={name: more, nodes: 2, gpus_per_node: 4}",
        )
    )  # fmt: skip
    pools = summary_of(run)["cluster"]["pools"]
    assert [(p["name"], p["nodes"], p["gpus_per_node"], p["gpu_type"]) for p in pools] == [
        ("small", 3, 2, "12GB"), ("large", 20, 8, "V100"), ("more", 2, 4, "any")
    ]  # fmt: skip
    assert sum(p["nodes"] for p in pools) == summary_of(run)["cluster"]["nodes"] == 25


def test_pools_are_changed_then_scaled_and_can_go() -> None:
    """cluster.nodes with cluster.pools would scale the pools as they were; pool numbers would shift when one goes."""
    two = Cluster("two", (Pool("a", 2, 4), Pool("b", 2, 8, vc="x")))
    assert [p.nodes for p in changed_cluster(two, {"pools": {"1": {"nodes": 6}}, "nodes": 16}).pools] == [4, 12]
    assert changed_cluster(two, {"pools": {"0": None, "1": {"vc": None}}}) == Cluster("two", (Pool("b", 2, 8),))
    assert changed_cluster(two, {"name": "other"}) == Cluster("other", two.pools)
    assert changed_cluster(two, {}) == two
    with pytest.raises(InputError, match=r"cluster.pools.1=3; fields of a pool are needed"):
        changed_cluster(two, {"pools": {"1": 3}})


def test_the_function_and_the_command_share_a_name(here: Path) -> None:
    """`import rltune.simulate` would put a module that cannot be called in the place of rltune.simulate."""
    told = subprocess.run(
        [sys.executable, "-c", "import rltune\nt = rltune.load_trace('synthetic', jobs=5)\n"
         "before = rltune.simulate(t, 'uniform').makespan_s()\nimport rltune.simulate\n"
         "from rltune import simulate\nassert rltune.simulate is simulate and simulate.main\n"
         "assert rltune.simulate(t, 'uniform').makespan_s() == simulate(t, 'uniform').makespan_s() == before\nprint('ok')"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=here, timeout=300,
    )  # fmt: skip
    assert told.stdout.strip() == "ok", told.stderr


def test_the_command_in_a_process_of_its_own_and_a_sweep(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`python -m rltune.simulate -m ...` would stop at its second run, or two runs share a directory."""
    told = subprocess.run(
        [sys.executable, "-m", "rltune.simulate", "-m", *QUICK[:3], "progress=false", "cluster.nodes=4,8", "policy=fifo,sjf",
         "runs=sweep"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=here, timeout=300,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    *printed, folder = [line for line in told.stdout.splitlines() if line.startswith("sweep/")]
    assert len(set(printed)) == 4 and all((here / line / "summary.json").is_file() for line in printed)
    assert all(line.startswith(f"{folder}/") for line in printed)
    assert comparing.main([folder]) == 0
    out, _ = capfd.readouterr()
    directory = Path(out.splitlines()[-1])
    assert {p.name for p in directory.iterdir()} == {"compare.json", "compare.md", "compare.png"}
    found = json.loads((directory / "compare.json").read_text())
    assert found["differing"] == ["cluster.nodes", "policy"]
    assert {(row["options"]["cluster.nodes"], row["options"]["policy"]) for row in found["rows"]} == {
        (4, "fifo"), (4, "sjf"), (8, "fifo"), (8, "sjf")
    }  # fmt: skip
    assert [row["cluster"]["nodes"] for row in found["rows"]] == [4, 4, 8, 8]
    assert "| nodes | policy | mean wait s (finished) |" in (directory / "compare.md").read_text()


def runs_of(told: Told) -> list[dict[str, Any]]:
    """Options and summary of each run of a sweep."""
    status, out, err = told
    assert status == 0, err
    *found, _ = [Path(line) for line in out.splitlines() if line.startswith("runs/")]
    return [yaml.safe_load((run / "config.yaml").read_text()) | {"summary": summary_of(run)} for run in found]


def test_a_sweep_over_options_of_a_part(simulate: Callable[..., Told]) -> None:
    """`-m options.resume_s=0,60 policy=las,gittins` would be refused, or run all with one value of either."""
    runs = runs_of(simulate("-m", *QUICK, "options.resume_s=0,60", "policy=las,gittins"))
    cases = {(run["options"]["resume_s"], run["policy"]): run["summary"]["policies"] for run in runs}
    assert cases.keys() == {(0, "las"), (0, "gittins"), (60, "las"), (60, "gittins")}
    jct = {case: next(iter(rows.values()))["jct_s"]["mean"] for case, rows in cases.items()}
    assert len(set(jct.values())) == 4
    assert jct[0, "las"] < jct[60, "las"] and jct[0, "gittins"] < jct[60, "gittins"]


@pytest.mark.thorough
def test_a_sweep_over_choices_that_have_options(simulate: Callable[..., Told]) -> None:
    """`-m trace=a,b trace.jobs=100` would be refused: Hydra looks for the option before it has chosen a trace."""
    runs = runs_of(simulate("-m", "trace=synthetic,philly_calibrated", "trace.jobs=100", "progress=false"))
    assert [(run["summary"]["trace"]["name"], run["summary"]["trace"]["jobs"]) for run in runs] == [
        ("synthetic", 100), ("philly_calibrated", 100)
    ]  # fmt: skip
    status, _, err = simulate("-m", *QUICK, "allocator=milp,best_fit", "allocator.head=4")
    assert status == 2 and "error: option allocator.head is unknown: allocator=best_fit has no options" in err


def test_a_comparison_is_paired_by_job_and_day(
    simulate: Callable[..., Told], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The change against the first run would be over other jobs, or of the other sign."""
    slow = [word for word in QUICK if "arrivals" not in word] + ["trace.arrivals_per_h=2.0", "name=a"]
    one = made(simulate(*[w for w in slow if w != "nodes=4"], "nodes=1"))
    two = made(simulate(*[w for w in slow if w not in ("nodes=4", "name=a")], "nodes=2", "name=b"))
    assert comparing.main([str(one), str(two), "--name", "c"]) == 0
    found = json.loads((here / "runs" / "c" / "compare.json").read_text())
    first, second = (pd.read_parquet(run / "jobs.parquet") for run in (one, two))
    (pair,) = [c for c in found["comparisons"] if c["metric"] == "jct_s"]
    assert pair["reduction"] == pytest.approx(1 - second.jct_s.mean() / first.jct_s.mean())
    assert pair["reduction"] > 0 and pair["ci95"][0] <= pair["reduction"] <= pair["ci95"][1]
    assert pair["jobs"] == 200
    row = found["rows"][1]
    span = summary_of(two)["policies"]["fifo-skip-exact-best_fit"]["makespan_s"]["mean"]
    assert row["cost_gpu_h"] == pytest.approx(16 * span / 3600)
    assert f"{-pair['reduction']:+.1%}" in (here / "runs" / "c" / "compare.md").read_text()
    capfd.readouterr()


def test_runs_of_before_are_compared_by_todays_names(simulate: Callable[..., Told]) -> None:
    """A run of last year would differ from one of today in every name of an option."""
    old, new = (
        made(simulate(*QUICK, f"name={name}", f"backfill={how}")) for name, how in (("o", "skip"), ("n", "easy"))
    )
    config = yaml.safe_load((old / "config.yaml").read_text())
    config = {"discipline": config.pop("backfill"), "knowledge": "known"} | config | {"options": {}}
    config.pop("runtimes")
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    found = comparison([read_run(old), read_run(new)])
    assert found["differing"] == ["backfill"]


def test_comparisons_that_say_nothing_are_refused(
    simulate: Callable[..., Told], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One run beside itself would be a table, or a hostile file of options hang the comparison."""
    one = made(simulate(*QUICK, "name=one"))
    (here / "empty").mkdir()
    (here / "wrong").mkdir()
    for name in ("config.yaml", "jobs.parquet"):
        (here / "wrong" / name).write_bytes((one / name).read_bytes())
    (here / "wrong" / "summary.json").write_text('{"command": "evaluate"}')
    (here / "torn").mkdir()
    for name in ("config.yaml", "summary.json"):
        (here / "torn" / name).write_bytes((one / name).read_bytes())
    (here / "torn" / "jobs.parquet").write_text("no parquet")
    hostile = {"deep": "a: " + "[" * 100_000, "aliases": "a0: &a0 {x: 1}\n" + "".join(
        f"a{k}: &a{k} {{{', '.join(f'k{n}: *a{k - 1}' for n in range(10))}}}\n" for k in range(1, 10)
    )}  # fmt: skip
    for name, text in hostile.items():
        (here / name).mkdir()
        for file in ("summary.json", "jobs.parquet"):
            (here / name / file).write_bytes((one / file).read_bytes())
        (here / name / "config.yaml").write_text(text)
    for paths, said in {
        (str(one),): "1 row; at least 2 are needed",
        (str(one), str(one)): "1 row; at least 2 are needed",
        (str(one), "nowhere"): "nowhere: no such directory",
        (str(one), "empty"): "empty: no finished run in it",
        (str(one), "wrong"): "wrong: damaged",
        (str(one), "torn"): "torn: damaged",
        (str(one), "deep"): "nested more than 32 deep",
        (str(one), "aliases"): "aliases written out",
    }.items():
        capfd.readouterr()
        assert comparing.main(list(paths)) == 2
        out, err = capfd.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and said in err, said
    assert not [p for p in (here / "runs").iterdir() if p.name.startswith("compare")]


def test_runs_of_every_command_are_compared_in_80_columns(
    simulate: Callable[..., Told], command: Command, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An evaluation could not stand beside simulations, jobs of two kinds be subtracted, or a log file break numbers apart."""
    one = made(simulate(*QUICK, "name=one"))
    two = made(simulate(*QUICK, "name=two", "policy=sjf", "cluster.nodes=1"))
    other = made(simulate(*QUICK, "name=other", "limit=100"))
    told = command(
        "evaluate", "+trace=synthetic", "trace.jobs=200", "protocol.window=16", "windows=3", "policy=[fifo,sjf]", "backfill=[skip]", "nodes=2",
        "progress=false", "name=judged",
    )  # fmt: skip
    judged = made(told)
    assert comparing.main([str(one), str(two), str(other), str(judged), "--name", "all"]) == 0
    out, _ = capfd.readouterr()
    assert max(map(len, out.splitlines())) <= 80
    found = json.loads((here / "runs" / "all" / "compare.json").read_text())
    assert [len(group["rows"]) for group in found["simulations"]] == [2, 1]
    assert {c["run"] for group in found["simulations"] for c in group["comparisons"]} == {str(two)}
    (group,) = found["judged"]
    assert "3 windows" in group["label"] and [row["learned"] for row in group["rows"]] == [False]
    lines = (here / "runs" / "all" / "compare.md").read_text()
    assert lines.count("# synthetic") == 3 and "p99 wait" in out and "*" in out
    assert comparing.main([str(one), str(two), "--json", "--name", "json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["rows"][1]["run"] == str(two) and err.strip().endswith("runs/json")


def test_a_learned_policy_stands_beside_the_best_heuristic_of_equal_knowledge(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A policy that knows nothing of run times would be held against an oracle, or its interval be another row's."""

    def row(learned: bool, runtimes: str, wait: float) -> dict[str, Any]:
        means = {key: {"mean": wait, "p99": wait} for key in ("wait_s", "jct_s", "bsld", "utilization")}
        return {"learned": learned, "runtimes": runtimes, "unfinished": 0, **means}

    policies = {
        "mine": row(True, "unknown", 80.0),
        "sjf-exact": row(False, "exact", 50.0),
        "fifo": row(False, "unknown", 100.0),
    }
    pair = {"policy": "mine", "against": "fifo", "metric": "wait_s", "reduction": 0.2, "ci95": [0.1, 0.3]}
    summary = {
        "command": "train", "trace": {"label": "t", "sha256": "0"}, "protocol": "window", "policies": policies, "comparisons": [pair],
        "cluster": {"name": "c", "nodes": 2, "gpus": 16}, "test": {"windows": 3, "jobs": 48, "range": [0.75, 1]},
    }  # fmt: skip
    for name, more in {"a": summary, "b": {k: v for k, v in summary.items() if k != "policies"}}.items():
        (tmp_path / "sweep" / name).mkdir(parents=True)
        (tmp_path / "sweep" / name / "summary.json").write_text(json.dumps(more))
        (tmp_path / "sweep" / name / "config.yaml").write_text("score: wait\n")
    assert comparing.main([str(tmp_path / "sweep"), "--runs", str(tmp_path), "--name", "c"]) == 0
    out, err = capfd.readouterr()
    assert "+20.0% [+10.0%, +30.0%]" in out and "sjf-exact" not in out and "80*" in out
    assert "b: it was not evaluated" in err


def test_results_are_short_in_a_notebook() -> None:
    """A cell that ends in a result would print every array of it."""
    trace = rltune.load_trace("synthetic", jobs=50)
    result = rltune.simulate(trace, rltune.load_cluster("uniform", nodes=1))
    for shown in (repr(result), repr(trace), repr(trace.jobs)):
        assert len(shown) < 200 and "\n" not in shown
    assert "50 jobs on uniform, 8 GPUs: mean wait (s)" in repr(result)
    assert (
        result._repr_html_().startswith("<table><caption>50 jobs on uniform") and "<script" not in result._repr_html_()
    )
