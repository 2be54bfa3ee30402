"""Event files, lower bound, replay and the command around it."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rltune.config import CONF
from rltune.config.declare import defaults
from rltune.config.mig import MigServe
from rltune.entry import store
from rltune.mig.geometry import geometry
from rltune.mig.online import Fleet, FleetOptions, Growth
from rltune.mig.online.bounds import dual_weights, lower_bound
from rltune.mig.online.events import KINDS, Event, generate, read_events
from rltune.mig.online.replay import replay
from rltune.mig.online.states import VALUED, state_table
from rltune.mig.online.training import Problem, first_guess, train
from rltune.mig.online.value import Weights
from rltune.mig_commands.serve import fleet_options, serve_lines, serve_trace
from rltune.nouns.errors import InputError

A100 = (Growth("a100-80gb"),)


def config(tmp_path, **options):
    return {**defaults(MigServe), "runs": str(tmp_path / "runs"), **options}


@pytest.mark.parametrize(
    ("live", "wanted"),
    [
        ({"7g": 2}, 2),
        ({"4g": 3, "7g": 1}, 4),
        ({"3g": 3}, 2),
        ({"1g": 8}, 2),
        ({"4g": 1, "3g": 1, "1g": 1}, 2),
        ({"2g": 3, "1g": 1}, 1),
        ({"2g": 4}, 2),
        ({"1g double": 5}, 2),
    ],
)
def test_lower_bound_by_hand(live, wanted):
    """A bound above what fits by hand would make every ratio too good, one below too bad."""
    counts = np.array([live.get(kind, 0) for kind in VALUED], float)
    assert lower_bound((geometry("a100-80gb"),), counts) == wanted


@pytest.mark.parametrize("models", [("a100-80gb",), ("a30",), ("a30", "h100-80gb")])
def test_bound_is_sound(models):
    """No state of any GPU may weigh more than one GPU, or the bound would be no bound."""
    tables = tuple(geometry(m) for m in models)
    for table in tables:
        states = state_table(table, VALUED).states
        counts = np.array([[sum(table.profiles[p.profile].kind == k for p in s) for k in VALUED] for s in states])
        assert (counts @ dual_weights(tables).T).max() <= 1 + 1e-9


def test_replay_reports_everything():
    """The report must agree with a recount from its own rows, and refusals must be in it."""
    events = generate(7, 300)
    events.insert(1, events[0])
    done = replay(Fleet(FleetOptions(A100, policy="fragmentation", migrate=0.05, slack=0)), events)
    s, rows = done.summary, done.events
    assert s["refused"] == (rows.refusal != "").sum() >= 1
    assert s["gpus_peak"] == done.steps.gpus.max() == rows.provisioned.sum() >= s["lower_bound"]
    assert s["migrations"] == rows.migrations.sum() == done.steps.migrations.iloc[-1]
    assert s["migrations"] <= 0.05 * s["acquired"]


def test_files(tmp_path):
    """The same stream as CSV, gzipped CSV, JSON and one of several workloads is the same."""
    events = generate(3, 40)
    rows = [["acquire", e.tenant, e.profile] if e.acquire else ["release", e.tenant] for e in events]
    text = "time_s,event,tenant,profile\n" + "".join(f"{i},{','.join([*r, ''][:3])}\n" for i, r in enumerate(rows))
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps({"workloads": {"w": [[], rows]}}).encode()))
    for name in ("a.csv", "a.csv.gz"):
        assert [e._replace(at=None) for e in read_events(tmp_path / name)] == events
    assert read_events(tmp_path / "a.json") == read_events(tmp_path / "b.json.gz", "w", 1) == events


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "event,tenant\n", "line 1: column 'profile' is missing"),
        ("a.csv", "event,tenant,profile\nacquire,u,1g\ntake,u,1g\n", "line 3: event is 'take'; accepted"),
        ("a.csv", "event,tenant,profile\nacquire,u,\n", "line 2: acquire without a profile"),
        ("a.csv", "event,tenant,profile,time_s\nacquire,u,1g,noon\n", "line 2: time_s is 'noon'; accepted"),
        ("a.json", '[["acquire", "u"]]', "event 1: acquire without a profile"),
        ("a.json", '[["release", 3]]', r"event 1: \['release', 3\]; accepted"),
        ("a.json", '{"workloads": {"w": []}}', "the file's workloads are w"),
        ("a.json", "[", "line 1: not JSON"),
        ("a.json", "[]", "no events"),
        ("a.txt", "", "accepted are files named"),
    ],
)
def test_bad_files(tmp_path, name, text, told):
    """A wrong file is refused with its place and with what is accepted."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told):
        read_events(tmp_path / name)


def test_untidy_files(tmp_path):
    """A spreadsheet's byte-order mark and spaces in the header are read over; damage of any kind is one line's error."""
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfevent, tenant ,profile\nacquire,u,1g\n")
    assert read_events(tmp_path / "a.csv") == [Event(True, "u", "1g")]
    packed = bytearray(gzip.compress(b"event,tenant,profile\n" * 50))
    packed[12] ^= 0xFF
    (tmp_path / "z.csv.gz").write_bytes(packed)
    (tmp_path / "long.csv").write_text(f"event,tenant,profile\nacquire,{'u' * 200_000},1g\n")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"\n" * 2**27, compresslevel=1))
    (tmp_path / "twice.csv").write_text("event,tenant,tenant,profile\nacquire,u,v,1g\n")
    (tmp_path / "wide.csv").write_text("event,tenant,profile\nacquire,u,1g,2g\n")
    for name, told in (
        ("z.csv.gz", "damaged gzip"), ("long.csv", "not CSV"), ("deep.json", "not JSON"), ("bomb.csv.gz", "unpacks to more"),
        ("twice.csv", "column 'tenant' stands twice"), ("wide.csv", "line 2: more cells"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            read_events(tmp_path / name)
    (tmp_path / "w.json").write_text('{"workloads": {"3": []}}')
    for workload, told in ((3, "workload=3: accepted"), (["3"], "accepted is a workload"), ("3", "has no sequences")):
        with pytest.raises(InputError, match=told):
            read_events(tmp_path / "w.json", workload)
    with pytest.raises(InputError, match="sequence: -1 is no whole number"):
        serve_trace(config(tmp_path, events=str(tmp_path / "w.json"), sequence=-1))


def test_serve_outlives_bad_bytes(tmp_path):
    """One tenant's bytes that are no UTF-8 must not end the service for the others."""
    command = [sys.executable, "-c", "from rltune.mig_commands.serve import *; serve_lines(eval(sys.argv[1]))"]
    asked = b"acquire \xff 1g\nacquire u \xff\nacquire v 7g\n"
    done = subprocess.run([*command, repr(config(tmp_path))], input=asked, capture_output=True, check=True, timeout=60)
    first, second, third = done.stdout.decode().splitlines()
    assert first.startswith("error: ") and second.startswith("error: ") and third == "0 0"


def test_commands(tmp_path):
    """serve-trace leaves its three files; serve goes on with the journal it left, and says so of a torn line."""
    (tmp_path / "e.csv").write_text("event,tenant,profile\nacquire,u,3g\nacquire,v,4g\nrelease,u,\n")
    run = serve_trace(config(tmp_path, events=str(tmp_path / "e.csv"), quotas={"*": {"instances": 1}}, name="r"))
    assert json.loads(Path(run, "summary.json").read_text())["gpus_peak"] == 1
    assert len(pd.read_parquet(f"{run}/events.parquet")) == len(pd.read_parquet(f"{run}/steps.parquet")) == 3
    cfg = config(tmp_path, journal=str(tmp_path / "j.jsonl"), gpu="a30:1")
    for line, wanted in [
        ("acquire u 4g\n", "0 0\n"),
        ("acquire v 1g\n", "error: no room"),
        ("release u\n", "released 1\n"),
    ]:
        out = io.StringIO()
        serve_lines(cfg, [line, "\n"], out)
        assert out.getvalue().startswith(wanted)


@pytest.mark.parametrize(
    "wrong", [{"gpu": "a30:x"}, {"gpu": "k80"}, {"quotas": {"t": 3}}, {"initial": [1]}, {"events": None}]
)
def test_bad_configuration(tmp_path, wrong):
    """A wrong option of the command is one line that names it."""
    (tmp_path / "e.csv").write_text("event,tenant,profile\nacquire,u,1g\n")
    with pytest.raises(InputError):
        serve_trace(config(tmp_path, **{"events": str(tmp_path / "e.csv"), **wrong}))


def test_mappings_from_the_command_line():
    """Hydra refuses new keys below an empty mapping, so that quotas and initial GPUs could not be given on a command line."""
    store(MigServe)
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("MigServe", ["initial={a100-80gb: 2}", "quotas={*: {instances: 4}}"])
    options = fleet_options(OmegaConf.to_container(cfg, resolve=False))
    assert options.initial == {"a100-80gb": 2} and options.quotas["*"].instances == 4


def test_trainer_plays_as_the_fleet_does():
    """Weights are trained on a compiled model of the fleet: it must provision just as many GPUs as the fleet itself."""
    problem, weights = Problem(), Weights.load()
    for kind, tenant, _ in problem.streams(77, 2):
        events = [Event(k >= 0, f"u{t}", KINDS[k] if k >= 0 else "") for k, t in zip(kind, tenant, strict=True)]
        fleet = replay(Fleet(FleetOptions(A100, policy="learned")), events).summary
        cost = problem.cost(weights, [(kind, tenant, fleet["lower_bound"])] * 2)
        assert cost[0] == pytest.approx(fleet["peak_over_bound"], abs=1.01 / fleet["lower_bound"])


def test_training_runs(tmp_path):
    """A second of training gives weights that can be saved, loaded and served with, and that differ from the start."""
    weights = train(0.5, 1, first_guess(), population=4, streams=4)
    weights.save(tmp_path / "w.json")
    assert Weights.load(tmp_path / "w.json") == weights != first_guess()
    assert Fleet(FleetOptions(A100, policy="learned", weights=str(tmp_path / "w.json"))).acquire("a", "3g").gpu == 0


def test_published_streams(golden):
    """On the published streams the look-ahead needs fewer GPUs than first-fit, and at most 1.12 of the bound."""
    path = golden / "mig" / "acquire_release.json.gz"
    if not path.exists():
        pytest.skip("golden/mig/acquire_release.json.gz is not here")
    peaks = {"first_fit": 0, "lookahead": 0}
    bound = 0
    for workload in ("balanced", "steady60"):
        events = read_events(path, workload, 0)
        for policy in peaks:
            done = replay(Fleet(FleetOptions(A100, policy=policy)), events).summary
            peaks[policy] += done["gpus_peak"]
        bound += done["lower_bound"]
    assert peaks["lookahead"] < peaks["first_fit"]
    assert peaks["lookahead"] <= 1.12 * bound


def test_a_stream_that_gets_nothing_is_reported(tmp_path, capsys):
    """A stream of refusals alone ends in a report, not in a traceback over times that were never taken."""
    (tmp_path / "e.csv").write_text("event,tenant,profile\nacquire,a,5g\n")
    serve_trace(config(tmp_path, events=str(tmp_path / "e.csv"), name="r"))
    assert "0 acquired, 1 refused" in capsys.readouterr().out


def test_options_of_the_other_command(tmp_path):
    """An option that would be ignored is refused."""
    with pytest.raises(InputError, match="journal is for serve"):
        serve_trace(config(tmp_path, events="e.csv", journal="j"))
    with pytest.raises(InputError, match="events is for serve-trace"):
        serve_lines(config(tmp_path, events="e.csv"))
