"""Bad input, bad options and a disk that refuses: one line with place and remedy, and no run directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.figure
import pandas as pd
import pytest
from entry_cases import HEADER, QUICK, ROWS, Command, refused, write

import rltune
from rltune.nouns.errors import InputError

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
    "unknown option of the trace": (["+trace=synthetic", "trace.job=100"], "unknown option job; known: jobs"),
    "option of no trace": (["trace.jobs=100"], "trace.jobs is given, but no trace; add +trace=helios"),
    "unknown score": (["+trace=synthetic", "score=speed"], "score='speed' is unknown; known are bsld, wait"),
    "unknown policy": (["+trace=synthetic", "policy=[sfj]"], "policy 'sfj' is unknown; known are fifo"),
    "unknown backfill": (["+trace=synthetic", "backfill=[fill]"], "backfill='fill' is unknown"),
    "unknown cluster": (["+trace=synthetic", "cluster=venus"], "cluster=venus is unknown; known are alibaba"),
    "unknown option of the cluster": (["+trace=synthetic", "cluster.size=3"], "option cluster.size is unknown"),
    "unknown simulation option": (["+trace=synthetic", "options.quantum=3"], "option options.quantum is unknown"),
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
    "unknown order": (["+trace=synthetic", "baseline=sfj"], "policy 'sfj' is unknown"),
    "resume nothing": (["+trace=synthetic", "resume=nowhere"], "resume=nowhere is no training run directory"),
    "resume and fine-tune": (["+trace=synthetic", "resume=a", "checkpoint=b"], "give one of them"),
    "corrupt checkpoint": (["+trace=synthetic", "checkpoint=jobs.csv"], "checkpoint jobs.csv is corrupt"),
    "bad network": (["+trace=synthetic", "network.hidden=30", "network.attention=true"], "hidden a multiple of heads"),
    "short stretch": (["+trace=synthetic", "trace.jobs=100"], "an episode takes 256; "),
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


@pytest.mark.thorough
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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("+trace=synthetic epoch=3", "option epoch is unknown; .*did you mean epochs?"),
        ("+trace=synthetic +options.resum_s=3", "option options.resum_s is unknown; .*did you mean options.resume_s?"),
        ("+trace=synthetic backfill=esy", "backfill='esy' is unknown; .*did you mean easy?"),
        ("+trace=helio", "trace=helio is unknown; .*did you mean helios?"),
        ("-m +trace=synthetic,philly epochs=a,b", "epochs='a'; a whole number"),
    ],
)
def test_a_slip_is_told_with_the_nearest_name_before_anything_heavy_is_loaded(words: str, told: str) -> None:
    """A mistyped option would be told after ten seconds of loading PyTorch and Ray, at the end of a list of thirty names."""
    code = (
        "import runpy, sys; sys.argv = ['train', *sys.argv[1:]]\n"
        "try: runpy.run_module('rltune.train', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, {'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True)
    assert done.stdout == "2 set()\n", done.stderr
    assert all(part in done.stderr for part in told.split(".*")) and done.stderr.count("\n") == 1
