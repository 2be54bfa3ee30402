"""Commands as a user types them: a good run leaves what the house page lists, bad input leaves one line."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.figure
import pandas as pd
import pytest
import torch

import rltune
from rltune.config.commands import Evaluate, Simulate, Train
from rltune.entry import run_main
from rltune.nouns.errors import InputError
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.policy_file import LearnedPolicy, load_policy, save_policy
from rltune.rl.rules import Rules

ROWS = [f"j{k},{k * 30},{k % 7 * 200 + 5},{k % 3 + 1}" for k in range(120)]
HEADER = "job_id,submit_s,duration_s,num_gpus"
QUICK = (
    "protocol.window=16",
    "windows=3",
    "policy=[fifo,sjf]",
    "backfill=[skip,easy]",
    "nodes=2",
    "progress=false",
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, no real traces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLTUNE_TRACES", str(tmp_path))
    return tmp_path


def write(path: Path, rows: list[str], header: str = HEADER) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


COMMANDS = {"evaluate": Evaluate, "train": Train, "simulate": Simulate}
Told = tuple[int, str, str]
Command = Callable[..., Told]


@pytest.fixture
def command(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """``command("evaluate", "+trace=...")`` -> (exit status, standard output, standard error), in this process."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(name: str, *options: str) -> Told:
        module = importlib.import_module(f"rltune.{name}")
        monkeypatch.setattr(sys, "argv", [f"rltune.{name}", *options])
        capfd.readouterr()
        status = 0
        try:
            run_main(module.main, COMMANDS[name])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capfd.readouterr()
        return status, out, err

    return run


def refused(told: Told, here: Path, said: str, *, alone: bool = False) -> str:
    """Exit status 2, one error line that holds ``said``, no traceback, no run directory. ``alone``: and nothing else."""
    status, out, err = told
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2, err
    assert len(errors) == 1, err
    assert said in errors[0]
    assert "Traceback" not in err
    assert not alone or err.splitlines() == errors
    runs = here / "runs"
    assert not runs.exists() or [p for p in runs.iterdir() if not p.name.startswith(".")] == [], out
    return errors[0]


# --- bad input ------------------------------------------------------------------------

FILES: dict[str, tuple[list[str], str, str]] = {
    "wrong columns": (["1,2"], "when,what", "jobs.csv: no known format; found columns when, what"),
    "NaN times": (["a,0,5,1", "b,nan,5,1"], HEADER, "jobs.csv: row 3: submit_s"),
    "negative times": (["a,0,5,1", "b,3,-5,1"], HEADER, "jobs.csv: row 3 (job b): duration_s is negative"),
    "text for a number": (["a,0,5,1", "b,3,5,two"], HEADER, "jobs.csv: row 3: num_gpus is 'two'"),
    "no GPUs": (["a,0,5,0"], HEADER, "jobs.csv: row 2 (job a): num_gpus is not a whole number"),
    "duplicate ids": (["a,0,5,1", "b,3,5,1", "a,4,5,1"], HEADER, "jobs.csv: row 4: job_id 'a' stands already in row 2"),
    "empty trace": ([], HEADER, "jobs.csv: the trace is empty"),
    "empty file": ([], "", "jobs.csv"),
    "oversized job": ([*ROWS, "big,4000,5,17"], HEADER, "job big (row 121 by submit time) wants 17 GPUs"),
    "too few jobs": (ROWS[:20], HEADER, "fewer than a window of 16"),
}


@pytest.mark.parametrize("kind", list(FILES))
def test_bad_files(kind: str, here: Path, command: Command) -> None:
    """A user's own trace with a fault would be a stack trace, or be evaluated with the fault."""
    rows, header, said = FILES[kind]
    write(here / "jobs.csv", rows, header)
    refused(command("evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK), here, said)


OPTIONS: dict[str, tuple[list[str], str]] = {
    "missing file": (["+trace=file", "trace.path=nowhere.csv"], "nowhere.csv"),
    "no path": (["+trace=file"], "trace.path is not set; use +trace=file trace.path=jobs.csv"),
    "no trace": ([], "no trace given; add +trace=helios"),
    "unknown trace": (["+trace=venus"], "trace=venus is unknown; known are alibaba, alibaba_calibrated, file, helios"),
    "unknown trace, no plus": (["trace=venus"], "trace=venus is unknown"),
    "trace not here": (["+trace=philly"], "philly"),
    "unknown option": (["+trace=synthetic", "windwos=3"], "option windwos is unknown; known are"),
    "unknown option of the trace": (["+trace=synthetic", "trace.job=100"], "trace.job"),
    "unknown score": (["+trace=synthetic", "score=speed"], "score='speed' is unknown; known are bsld, wait"),
    "unknown policy": (["+trace=synthetic", "policy=[sfj]"], "policy 'sfj' is unknown; known are fifo"),
    "unknown backfill": (["+trace=synthetic", "backfill=[fill]"], "backfill='fill' is unknown"),
    "unknown cluster": (["+trace=synthetic", "cluster=venus"], "cluster=venus is unknown; known are alibaba"),
    "unknown option of the cluster": (["+trace=synthetic", "cluster.size=3"], "option cluster.size is unknown"),
    "options of simulate": (["+trace=synthetic", "options.quantum_s=3"], "option options.quantum_s is unknown"),
    "unknown allocator": (["+trace=synthetic", "allocator=worst"], "allocator=worst is unknown; known are best_fit"),
    "unknown protocol": (["+trace=synthetic", "protocol=year"], "protocol=year is unknown; known are month, window"),
    "missing checkpoint": (["+trace=synthetic", "checkpoint=nowhere"], "checkpoint nowhere does not exist"),
    "corrupt checkpoint": (["+trace=synthetic", "checkpoint=jobs.csv"], "checkpoint jobs.csv is corrupt"),
    "no windows": (["+trace=synthetic", "windows=0"], "windows=0; at least 1 is needed"),
    "window outside": (["+trace=synthetic", "windows=[0,99999]"], "99999 is no first job of the test stretch"),
    "no nodes": (["+trace=synthetic", "nodes=0"], "nodes=0"),
    "bad stretch": (["+trace=synthetic", "trace.test=[0.9,0.5]"], "fractions 0.9, 0.5 do not rise"),
    "half a stretch": (["+trace=synthetic", "trace.test=[0.75]"], "bounds [0.75] are not a pair"),
    "bad name": (["+trace=synthetic", "name=a/b"], "name='a/b' is no directory name"),
    "two traces at once": (["+trace=synthetic,helios"], "--multirun"),
}


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_bad_options(kind: str, here: Path, command: Command) -> None:
    """A typing error on the command line would be a stack trace, or be passed over."""
    write(here / "jobs.csv", ROWS)
    options, said = OPTIONS[kind]
    own = {option.split("=")[0] for option in options}
    quick = [option for option in QUICK if option.split("=")[0] not in own]
    refused(command("evaluate", *quick, *options), here, said)


KINDS = (
    "windows=abc", "windows=1.5", "windows=null", "windows=[]", "windows=[0,x]", "policy=[]", "backfill=[]", "runtimes=[]",
    "nodes=abc", "nodes=1.5", "nodes=[]", "nodes=[2,abc]", "protocol.window=abc", "protocol.window=0", "checkpoint=5",
    "runs=null", "trace.jobs=many",
)  # fmt: skip


@pytest.mark.parametrize("option", ["trace.jobs=0", *KINDS])
def test_values_of_the_wrong_kind(option: str, here: Path, command: Command) -> None:
    """windows=abc would be a stack trace; nodes=1.5 would be another number of nodes than was asked."""
    quick = [known for known in QUICK if known.split("=")[0] != option.split("=")[0]]
    told = command("evaluate", "+trace=synthetic", "trace.jobs=200", *quick, option)
    line = refused(told, here, option.split("=")[0].rpartition(".")[2])
    assert len(line) < 400


@pytest.mark.parametrize("option", ["score=bsld", "policy=sjf", "backfill=skip", "runtimes=predicted"])
def test_options_do_what_they_say(option: str, here: Path, command: Command) -> None:
    """score=bsld without a checkpoint would show waits; policy=sjf would be read letter by letter."""
    quick = [known for known in QUICK if known.split("=")[0] != option.split("=")[0]]
    status, out, err = command("evaluate", "+trace=synthetic", "trace.jobs=200", *quick, option)
    assert status == 0, err
    summary = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())
    if option == "score=bsld":
        assert "bsld" in (Path(out.splitlines()[-1]) / "table.md").read_text().splitlines()[0]
    else:
        rows = summary["policies"].values()
        assert {row["policy"] for row in rows} == ({"sjf"} if option == "policy=sjf" else {"fifo", "sjf"})
        assert {row["backfill"] for row in rows} == ({"skip"} if option == "backfill=skip" else {"skip", "easy"})
        known = {row["runtimes"] for row in rows} - {"unknown"}
        assert known == ({"predicted"} if option == "runtimes=predicted" else {"exact", "predicted"})


@pytest.mark.parametrize("option", ["runtimes=foo", "baseline=foo", "backfill=foo", "seed=abc"])
def test_unknown_values_of_training_options_are_refused_by_evaluate_too(
    option: str, here: Path, command: Command
) -> None:
    """A typing error in runtimes= would be passed over, and the user believe it was obeyed."""
    told = command("evaluate", "+trace=synthetic", "trace.jobs=200", *QUICK, option)
    refused(told, here, "baseline" if option == "baseline=foo" else option.split("=")[1])


RENAMED: dict[str, tuple[str, str]] = {
    "disciplines=[skip,easy]": ("evaluate", "option disciplines is now backfill: use backfill=[skip,easy]"),
    "policies=[fifo]": ("evaluate", "option policies is now policy: use policy=[fifo]"),
    "knowledge=known": ("evaluate", "option knowledge is now runtimes: use runtimes=exact"),
    "runtimes=[known]": ("evaluate", "runtimes=known is now called exact: use runtimes=exact"),
    "discipline=easy": ("simulate", "option discipline is now backfill: use backfill=easy"),
    "runtimes=none": ("simulate", "runtimes=none is now called unknown: use runtimes=unknown"),
    "order=sjf": ("train", "option order is now baseline: use baseline=sjf"),
    "knowledge=predicted,none": ("train", "option knowledge is now runtimes: use runtimes=predicted,unknown"),
    "runtimes=known": ("train", "runtimes=known is now called exact: use runtimes=exact"),
}


@pytest.mark.parametrize("option", list(RENAMED))
def test_an_old_name_says_the_new_one(option: str, here: Path, command: Command) -> None:
    """Whoever repeats a command of last year would be told that it is wrong, not how to write it now."""
    name, said = RENAMED[option]
    refused(command(name, "+trace=synthetic", "trace.jobs=2000", option), here, said, alone=True)


def test_an_old_name_in_python_says_the_new_one() -> None:
    """A notebook of last year would stop at a list of forty options."""
    for given, said in {
        ("discipline", "easy"): "option discipline is now backfill: use backfill=easy",
        ("knowledge", "none"): "option knowledge is now runtimes: use runtimes=unknown",
        ("runtimes", "known"): "runtimes=known is now called exact: use runtimes=exact",
    }.items():
        with pytest.raises(InputError, match=said):
            rltune.simulate(rltune.load_trace("synthetic", jobs=5), "uniform", **{given[0]: given[1]})


def test_stretches_that_overlap_are_refused(here: Path, command: Command) -> None:
    """A policy would be tested on the jobs it was trained on."""
    told = command(
        "evaluate", "+trace=synthetic", "trace.jobs=200", *QUICK, "trace.train=[0.0,1.0]", "trace.test=[0.5,1.0]"
    )
    refused(told, here, "trace")


def test_the_error_is_the_only_line(here: Path, command: Command) -> None:
    """The one clear line would be hidden below what Hydra says about it."""
    refused(command("evaluate", *QUICK), here, "no trace given", alone=True)
    refused(command("evaluate", "+trace=synthetic", *QUICK, "windwos=3"), here, "windwos", alone=True)


# --- a disk that refuses --------------------------------------------------------------


def test_a_full_disk_is_one_line(here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up while text is written would leave half a run that looks whole."""

    def full(self: Path, *_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    refused(command("evaluate", "+trace=synthetic", "trace.jobs=200", *QUICK), here, "No space left on device")


@pytest.mark.parametrize(
    "writer",
    [(pd.DataFrame, "to_parquet"), (pd.DataFrame, "to_csv"), (matplotlib.figure.Figure, "savefig")],
    ids=lambda w: w[1],
)
def test_a_full_disk_is_one_line_also_in_libraries(
    writer: tuple[type, str], here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up while pandas or matplotlib writes would be a stack trace."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*writer, full)
    refused(command("evaluate", "+trace=synthetic", "trace.jobs=200", *QUICK), here, "No space left on device")


def test_a_file_size_limit_of_the_system(here: Path) -> None:
    """A real refusal of the operating system (here a limit of 4 kB a file) would be a stack trace."""
    code = (
        "import resource, sys; import rltune.evaluate as e; from rltune.entry import run_main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); run_main(e.main, e.Evaluate)"
    )
    command = [sys.executable, "-c", code, "+trace=synthetic", "trace.jobs=200", *QUICK]
    # Compiled kernels must not be written under the limit.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    refused((done.returncode, done.stdout, done.stderr), here, "File too large")


# --- a good run -----------------------------------------------------------------------


def no_nan(value: Any) -> bool:
    if isinstance(value, dict):
        return all(no_nan(v) for v in value.values())
    if isinstance(value, list):
        return all(no_nan(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)


def test_an_evaluation_with_options_of_the_simulation(here: Path, command: Command) -> None:
    """Rows that cannot be simulated would stop the others, or vanish without a word; options would be ignored."""
    write(here / "jobs.csv", ROWS)
    quick = [option for option in QUICK if not option.startswith(("policy", "backfill"))]
    rows = ("policy=[fifo,las]", "backfill=[blocking,skip,easy]", "runtimes=exact", "options.gpu_mtbf_s=3000")
    status, out, err = command("evaluate", "+trace=file", "trace.path=jobs.csv", *quick, *rows)
    assert status == 0, err
    summary = json.loads((here / out.splitlines()[-1] / "summary.json").read_text())
    assert set(summary["policies"]) == {"fifo-skip", "las-skip", "fifo-easy-exact"}
    assert [note.partition(" are left out")[0] for note in summary["notes"][:2]] == [
        "rows with backfill=blocking", "rows with backfill=easy, of policies that suspend,",
    ]  # fmt: skip
    told = command("evaluate", "+trace=file", "trace.path=jobs.csv", *quick, "policy=[lass]")
    refused(told, here / "nowhere", "policy 'lass' is unknown")


def test_a_good_run_leaves_what_the_house_page_lists(here: Path) -> None:
    """Other tools would not find the run, its files or the keys they read."""
    write(here / "jobs.csv", ROWS)
    command = [sys.executable, "-m", "rltune.evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    run = here / done.stdout.splitlines()[-1]
    assert {p.name for p in run.iterdir()} == {
        "config.yaml", "manifest.json", "summary.json", "table.md", "windows.csv", "jobs.parquet", "box.png", "cdf.png",
    }  # fmt: skip
    assert [p.name for p in here.iterdir() if p.name not in ("jobs.csv", "runs")] == []
    summary = json.loads((run / "summary.json").read_text())
    assert no_nan(summary)
    assert (summary["schema_version"], summary["command"], summary["protocol"]) == (1, "evaluate", "window")
    assert {"name", "source", "jobs", "sha256"} <= summary["trace"].keys()
    assert (summary["trace"]["source"], summary["trace"]["jobs"]) == ("user", 120)
    assert (summary["cluster"]["nodes"], summary["cluster"]["gpus"]) == (2, 16)
    assert set(summary["policies"]) == {
        "fifo-skip", "sjf-skip-exact", "sjf-skip-predicted", "fifo-easy-exact", "fifo-easy-predicted", "sjf-easy-exact",
        "sjf-easy-predicted",
    }  # fmt: skip
    for row in summary["policies"].values():
        assert row["wait_s"].keys() >= {"mean", "ci95", "p50", "p95", "p99", "max"}
        assert {"jct_s", "bsld", "utilization", "fragmentation", "makespan_s"} <= row.keys()
        assert row["unfinished"] == 0
        assert row["wait_s"]["ci95"][0] <= row["wait_s"]["mean"] <= row["wait_s"]["ci95"][1]
    assert summary["comparisons"] == []
    assert {"wall_s", "peak_rss_mb", "jobs_per_s"} <= summary["runtime"].keys()
    manifest = json.loads((run / "manifest.json").read_text())
    assert {"schema_version", "git_commit", "seeds", "packages", "trace"} <= manifest.keys()
    jobs = pd.read_parquet(run / "jobs.parquet")
    assert {"policy", "window", "job_id", "submit_s", "start_s", "end_s", "wait_s", "num_gpus"} <= set(jobs.columns)
    mean = jobs[jobs.policy == "fifo-skip"].wait_s.mean()
    assert summary["policies"]["fifo-skip"]["wait_s"]["mean"] == pytest.approx(mean)


def test_trace_with_and_without_plus_is_the_same(here: Path, command: Command) -> None:
    """``trace=synthetic``, as every other option is written, would be refused as unknown."""
    told = [command("evaluate", f"{plus}trace=synthetic", *QUICK) for plus in ("+", "")]
    assert [status for status, _, _ in told] == [0, 0], told[1][2]
    one, two = (json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text()) for _, out, _ in told)
    assert one["trace"] == two["trace"]
    assert one["policies"] == two["policies"]


def test_dropped_jobs_are_counted_in_the_summary(here: Path, command: Command) -> None:
    """A job that can never run would vanish from the table in silence."""
    write(here / "jobs.csv", [*ROWS[:-10], *(f"big{k},{3300 + k},5,17" for k in range(3)), *ROWS[-10:]])
    status, out, err = command(
        "evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, "oversized=drop", "windows=[11]"
    )
    assert status == 0, err
    assert "big0" in err and "counted as unfinished" in err
    summary = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())
    assert {row["unfinished"] for row in summary["policies"].values()} == {3}


def test_a_stretch_in_which_nothing_can_run_is_told(here: Path, command: Command) -> None:
    """oversized=drop on a cluster too small for every job would be a stack trace."""
    write(here / "jobs.csv", [f"j{k},{k},5,17" for k in range(120)])
    told = command("evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, "oversized=drop")
    refused(told, here, "17 GPUs")


# --- training -------------------------------------------------------------------------

TRAINING: dict[str, tuple[list[str], str]] = {
    "no trace": ([], "no trace given; add +trace=helios"),
    "unknown algorithm": (["+trace=synthetic", "algo=a3c"], "algo=a3c is unknown; known are"),
    "unknown option": (["+trace=synthetic", "epoch=3"], "option epoch is unknown; known are"),
    "unknown score": (["+trace=synthetic", "score=speed"], "score='speed' is unknown"),
    "no epochs": (["+trace=synthetic", "epochs=0"], "epochs=0; a whole number of at least 1"),
    "epochs as text": (["+trace=synthetic", "epochs=many"], "epochs='many'; a whole number"),
    "blind SJF": (
        ["+trace=synthetic", "runtimes=unknown", "baseline=sjf", "backfill=skip"],
        "runtimes=unknown knows no run times",
    ),
    "blind EASY": (["+trace=synthetic", "runtimes=unknown"], "runtimes=unknown knows no run times"),
    "moving order": (["+trace=synthetic", "baseline=wfp3"], "baseline=wfp3 changes while jobs wait"),
    "unknown order": (["+trace=synthetic", "baseline=sfj"], "policy 'sfj' is unknown"),
    "resume nothing": (["+trace=synthetic", "resume=nowhere"], "resume=nowhere is no training run directory"),
    "resume and fine-tune": (["+trace=synthetic", "resume=a", "checkpoint=b"], "give one of them"),
    "corrupt checkpoint": (["+trace=synthetic", "checkpoint=jobs.csv"], "checkpoint jobs.csv is corrupt"),
    "bad network": (["+trace=synthetic", "network.hidden=30", "network.attention=true"], "hidden a multiple of heads"),
    "short stretch": (["+trace=synthetic", "trace.jobs=100"], "fewer than an episode's"),
    "one validation window": (["+trace=synthetic", "trace.jobs=2000"], "cannot tell luck from skill"),
    "network of words": (["+trace=synthetic", "network.hidden=abc"], "network.hidden='abc'; a whole number is needed"),
    "learning rate of words": (["+trace=synthetic", "algo.lr=abc"], "algo.lr='abc'; a number is needed"),
    "no episodes": (["+trace=synthetic", "algo.envs=0"], "algo.envs=0; a whole number of at least 1"),
    "one validation window asked": (["+trace=synthetic", "validation_windows=1"], "a whole number of at least 2"),
    "few episodes for sizes": (
        ["+trace=synthetic", "trace.jobs=6000", "nodes=[4,5,6]", "algo.envs=2"],
        "algo.envs=2: 3 cluster sizes to train on need as many",
    ),
    "sizes twice": (["+trace=synthetic", "nodes=[4,4]"], "a list of different ones"),
    "scale of words": (["+trace=synthetic", "protocol.train_scale=2"], "protocol.train_scale=2; a list of numbers"),
    "allocator's options": (["+trace=synthetic", "+allocator.bogus=1"], "option allocator.bogus is unknown"),
    "allocator of words": (
        ["+trace=synthetic", "allocator.head=abc"],
        "allocator.head='abc'; a whole number is needed",
    ),
}


@pytest.mark.ray
@pytest.mark.parametrize("kind", list(TRAINING))
def test_bad_training_options(kind: str, here: Path, command: Command) -> None:
    """A typing error would be found after an hour of training, or in a stack trace of Ray."""
    write(here / "jobs.csv", ROWS)
    options, said = TRAINING[kind]
    quick = ["baseline=saf", "progress=false", "evaluate=false", "trace.jobs=2000"]
    own = {option.split("=")[0] for option in options}
    used = [o for o in quick if o.split("=")[0] not in own and not (o.startswith("trace.") and not options)]
    refused(command("train", *used, *options), here, said)


# --- policies in an evaluation --------------------------------------------------------


def save_seeds(folder: Path, seeds: int, weights: float) -> list[str]:
    """Policies of several seeds, as training leaves them; ``weights``: how far from the baseline order."""
    paths = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        network = JobNetwork(NetworkConfig(visible=4, hidden=8))
        for tensor in network.parameters():
            torch.nn.init.normal_(tensor, std=weights)
        origin = {
            "seed": seed,
            "kept": "epoch 5" if weights else "baseline order",
            "trace": "elsewhere",
            "trace_sha256": "0",
        }
        paths.append(str(folder / f"s{seed}.safetensors"))
        save_policy(Path(paths[-1]), LearnedPolicy(network, Rules(baseline="sjf", visible=4), origin))
    return paths


def test_several_seeds_stand_in_one_table_with_their_mean(here: Path, command: Command) -> None:
    """A lucky seed would stand for the method, or the MILP's part could not be told from the policy's."""
    write(here / "jobs.csv", ROWS)
    seeds = save_seeds(here, 2, 1.0)
    status, out, err = command(
        "evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, f"checkpoint=[{','.join(seeds)}]"
    )
    assert status == 0, err
    assert "a transfer" in err
    summary = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())
    assert no_nan(summary)
    rows = summary["policies"]
    learned = {f"learned-easy-exact-s{k}{placed}" for k in (0, 1) for placed in ("", "+milp")}
    assert {name for name, row in rows.items() if row["learned"]} == learned
    assert rows["sjf-easy-exact+milp"]["allocator_stats"]["calls"] > 0
    assert rows["learned-easy-exact-s0"]["allocator"] == "best_fit"
    assert {seed["policy"] for seed in summary["seeds"]} == {
        "learned-easy-exact+milp, mean of 2", "learned-easy-exact, mean of 2",
    }  # fmt: skip
    means = [rows[f"learned-easy-exact-s{k}"]["wait_s"]["mean"] for k in (0, 1)]
    told = next(s for s in summary["seeds"] if s["policy"] == "learned-easy-exact, mean of 2")
    assert (told["min"], told["max"]) == (min(means), max(means))
    assert told["mean"] == pytest.approx(sum(means) / 2)
    against = {
        c["against"]: c for c in summary["comparisons"] if c["policy"] == told["policy"] and c["metric"] == "wait_s"
    }
    gain = 1 - told["mean"] / rows["fifo-easy-exact"]["wait_s"]["mean"]
    assert against["fifo-easy-exact"]["reduction"] == pytest.approx(gain)
    assert told["policy"] in out


@pytest.mark.parametrize("again", [0, 1])
def test_only_seeds_of_one_recipe_are_averaged(here: Path, command: Command, again: int) -> None:
    """The same policy twice, or two unlike ones, would be called a mean of seeds."""
    write(here / "jobs.csv", ROWS)
    seeds = save_seeds(here, 2, 1.0)
    other = load_policy(seeds[1])
    save_policy(Path(seeds[1]), replace(other, origin=other.origin | {"algo": "dqn"}))
    status, out, err = command(
        "evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, f"checkpoint=[{seeds[0]},{seeds[again]}]"
    )
    assert status == 0, err
    assert json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())["seeds"] == []


def test_heuristics_named_twice_are_one_row(here: Path, command: Command) -> None:
    """An alias, or a word typed twice, would be a stack trace."""
    write(here / "jobs.csv", ROWS)
    quick = [option for option in QUICK if not option.startswith(("policy", "backfill"))]
    options = ("policy=[fifo,sjf,fifo]", "backfill=[skip,skip]")
    status, out, err = command("evaluate", "+trace=file", "trace.path=jobs.csv", *quick, *options)
    assert status == 0, err
    rows = json.loads((Path(out.splitlines()[-1]) / "summary.json").read_text())["policies"]
    assert list(rows) == ["fifo-skip", "sjf-skip-exact", "sjf-skip-predicted"]


def test_a_policy_that_kept_no_epoch_is_told_and_is_its_order(here: Path, command: Command) -> None:
    """The baseline order would be quoted as a learned result."""
    write(here / "jobs.csv", ROWS)
    (path,) = save_seeds(here, 1, 0.0)
    status, out, err = command("evaluate", "+trace=file", "trace.path=jobs.csv", *QUICK, f"checkpoint={path}")
    assert status == 0, err
    run = Path(out.splitlines()[-1])
    rows = json.loads((run / "summary.json").read_text())["policies"]
    assert rows["learned-easy-exact"]["wait_s"] == rows["sjf-easy-exact"]["wait_s"]
    assert rows["learned-easy-exact+milp"]["wait_s"] == rows["sjf-easy-exact+milp"]["wait_s"]
    for text in (out, (run / "table.md").read_text()):
        assert "learned-easy-exact: training kept its baseline order sjf" in " ".join(text.split())
