"""What the logs and files of the field look like, and what is expected of each: the cases of `field_cases`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

READ = """
import sys
from rltune.traces import load_trace
trace = load_trace(sys.argv[1])
frame = trace.jobs.to_frame()
for row in frame.to_dict("records"):
    said = lambda name: None if row[name] is None or row[name] != row[name] else row[name]
    part = said("mig") or (f"{row['gpu_milli']}/1000 GPU" if row["gpu_milli"] < 1000 else "GPU")
    words = [f"{row['job_id']}: {row['num_gpus']} x {part}", f"arrives {row['submit_s']:g}"]
    words += [f"of {said('gpu_type')}"] * bool(said("gpu_type")) + [f"user {said('user')!r}"] * bool(said("user"))
    words += [f"waits {row['wait_s']:g}"] * (said("wait_s") is not None) + [f"runs {row['duration_s']:g}"]
    print(", ".join(words))
for note in trace.notes:
    if "left out" in note or "start before" in note or "passed over" in note:
        print("note:", note)
"""
"""Prints what a version reads from a log."""
CONVERT = """
import sys
from rltune.traces import load_trace, plain
print(plain.write(load_trace(sys.argv[1]), "converted.csv").read_text())
"""
"""Prints a log as rltune writes it."""
SIMULATE = ["-m", "rltune.simulate", "+trace=file", "policy=fifo", "nodes=1", "progress=false"]
HEADER = "JobID|User|JobName|Submit|Start|Elapsed|State|AllocTRES\n"
CSV = "job_id,submit_s,duration_s,num_gpus,user"
ALIASES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{k}: &a{k} {{{', '.join(f'k{n}: *a{k - 1}' for n in range(10))}}}\n" for k in range(1, 10)
)
"""Options within options: a thousand million of them once written out."""
SLURM, PODS, TABLES, FIELD = (f"test_field_{name}.py::" for name in ("slurm", "kubernetes", "csv", "cases"))
VALUES = FIELD + "test_logs_give_their_expected_values"
NAMED = SLURM + "test_what_the_table_cannot_hold_is_left_out_by_its_name"
NEAR = SLURM + "test_near_misses_get_a_remedy"
KEPT = PODS + "test_slices_and_shares_are_no_whole_gpus"
BY_NAME = PODS + "test_what_the_table_cannot_hold_is_left_out_by_its_name"


class Case(NamedTuple):
    """``kind`` as the row is called; ``given``: command after the interpreter; ``expected``: what the outcome must match."""

    kind: str
    given: list[str]
    expected: str
    test: str


def reading(kind: str, file: Path, expected: str, test: str) -> Case:
    return Case(kind, ["-c", READ, str(file)], expected, test)


def job(name: str, tres: str, user: str = "ann", start: str = "2025-03-03T09:01:00") -> str:
    return f"{name}|{user}|t|2025-03-03T09:00:00|{start}|01:00:00|COMPLETED|{tres}\n"


def pod(name: str, limits: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    ran = {"terminated": {"startedAt": "2025-05-01T10:00:10Z", "finishedAt": "2025-05-01T10:30:10Z"}}
    times = {"phase": "Succeeded", "startTime": "2025-05-01T10:00:05Z", "containerStatuses": [{"state": ran}]}
    about = {
        "name": name,
        "namespace": "a",
        "creationTimestamp": "2025-05-01T10:00:00Z",
        "labels": more.pop("labels", {}),
    }
    return {
        "kind": "Pod",
        "metadata": about,
        "spec": {"containers": [{"resources": {"limits": limits}}]} | more,
        "status": times,
    }


class Files(NamedTuple):
    """Writes what is read into a folder."""

    folder: Path

    def file(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def pods(self, name: str, *items: Mapping[str, Any]) -> Path:
        plain = pod("plain", {"nvidia.com/gpu": 1})
        return self.file(name, json.dumps({"kind": "List", "items": [plain, *items]}))


def run_of(folder: Path, config: str) -> Path:
    """A run directory as `rltune.simulate` leaves it, with options of our own."""
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    (folder / "summary.json").write_text('{"command": "simulate", "policies": {}}')
    columns = ("submit_s", "finished", "wait_s", "jct_s", "bsld")
    pd.DataFrame({"job_id": ["a"]} | {name: [1.0] for name in columns}).to_parquet(folder / "jobs.parquet")
    return folder


def all_cases(cases: Path, folder: Path) -> list[Case]:
    """The examples beside the traces, in ``cases``, and the same kinds in other shapes, written into ``folder``."""
    files = Files(folder)
    given = [*given_slurm(cases), *given_pods(cases), *given_paths(cases), *given_hostile(cases)]
    return [*given, *own_slurm(files), *own_pods(files), *own_tables(files), *own_hostile(files)]


def given_slurm(cases: Path) -> list[Case]:
    """Accounting of Slurm, with the values that are expected of it."""
    return [
        reading(
            "A1 Slurm: MIG slices (case 01)",
            cases / "01-slurm-mig-gres/sacct.txt",
            r"8001: 1 x 3g.20gb.*8002: 1 x 3g.20gb.*8003: 1 x GPU.*8004: 2 x 1g.10gb",
            VALUES,
        ),
        Case(
            "A1 Slurm: MIG slices simulated (case 01)",
            [*SIMULATE, f"trace.path={cases}/01-slurm-mig-gres/sacct.txt"],
            "refused.*MIG 3g.20gb.*oversized=drop",
            SLURM + "test_jobs_of_several_slices_are_told_and_dropped_on_request",
        ),
        reading(
            "A2 Slurm: attempts (case 02)",
            cases / "02-slurm-requeue-D/sacct.txt",
            "2359: .*3889.*2359#2: .*2359#3: ",
            VALUES,
        ),
        reading(
            "A2 Slurm: a requeued attempt (case 02)",
            cases / "02-slurm-requeue-D/sacct-requeued-only.txt",
            "2359: .*runs 3889(?!.*have not ended)",
            VALUES,
        ),
        reading(
            "A4 Slurm: Eligible (case 06)",
            cases / "06-slurm-eligible/sacct.txt",
            "902: 8 x GPU, arrives 21660, .*waits 30,",
            VALUES,
        ),
        reading(
            "A4 Slurm: UTC offsets (case 07)",
            cases / "07-slurm-dst/sacct-offset.txt",
            "951: 1 x GPU, arrives 6600, .*waits 900,",
            VALUES,
        ),
        reading(
            "A4 Slurm: a night of a clock change (case 07)",
            cases / "07-slurm-dst/sacct.txt",
            "^(?!.*waits -).*1 jobs start before",
            FIELD + "test_what_is_left_out_or_unknown_is_told",
        ),
        reading("A4 Slurm: seconds since 1970 (case 07)", cases / "07-slurm-dst/sacct-epoch.txt", "waits 900,", VALUES),
        reading(
            "A6 Slurm: pending and cancelled (case 03)",
            cases / "03-slurm-array-pending/sacct.txt",
            "^(?!.*501:).*503: .*1 jobs that are pending.*2 jobs cancelled while pending",
            VALUES,
        ),
    ]


def given_pods(cases: Path) -> list[Case]:
    """Pod lists, with the values that are expected of them."""
    return [
        reading(
            "A1 Kubernetes: MIG slices (case 10)",
            cases / "10-k8s-mig/pods.json",
            r"nb-1: 1 x 1g.5gb.*nb-2: 1 x 3g.20gb.*train: 2 x GPU",
            VALUES,
        ),
        reading(
            "A1 Kubernetes: MIG slices alone (case 10)", cases / "10-k8s-mig/only-mig.json", "nb-1: 1 x 1g.5gb", VALUES
        ),
        reading(
            "A2 Kubernetes: container restarts (case 12)",
            cases / "12-k8s-restart-evict/pods.json",
            "restarted: 8 x GPU, arrives 0, waits 5, runs 11395.*evicted or rejected.*CrashLoopBackOff",
            VALUES,
        ),
        reading(
            "A3 Kubernetes: init phase and sidecars (case 11)",
            cases / "11-k8s-init-sidecar/pods.json",
            "init-bigger: 4 .*init-only-gpu: 2 .*plain: 1 .*sidecar: 2 ",
            VALUES,
        ),
        reading(
            "A5 Kubernetes: gangs (case 14)",
            cases / "14-k8s-shapes/gangs.json",
            "ix: 16 .*lw: 16 .*pg: 16 .*pt: 16 .*rc1: 16 ",
            VALUES,
        ),
        reading(
            "A5 Kubernetes: node affinity (case 14)",
            cases / "14-k8s-shapes/affinity.json",
            "aff: .*of NVIDIA-A100",
            VALUES,
        ),
        reading(
            "A6 Kubernetes: rejected and evicted (case 36)",
            cases / "36-k8s-rejected/pods.json",
            "rejected by their node .*evicted",
            FIELD + "test_what_is_left_out_or_unknown_is_told",
        ),
        reading(
            "A7 a single pod (case 14)",
            cases / "14-k8s-shapes/single.json",
            "refused.*--output=json",
            PODS + "test_near_misses_get_a_remedy",
        ),
        reading(
            "A7 pods line by line (case 14)",
            cases / "14-k8s-shapes/lines.json",
            "refused.*--output=json",
            PODS + "test_near_misses_get_a_remedy",
        ),
    ]


def given_paths(cases: Path) -> list[Case]:
    """Files of other tools, and paths that Hydra reads as something else."""
    paths = sorted((cases / "25-hydra-paths").rglob("*.csv"))
    return [
        Case(
            "A7 a ConfigMap around a mig-parted file (case 18)",
            [
                "-m",
                "rltune.devices",
                "plan",
                f"{cases}/18-migparted-configmap/configmap.yaml",
                "--device",
                "simulated:a100-80gb",
            ],
            "1g.10gb",
            FIELD + "test_a_configmap_is_read",
        ),
        *(
            Case(
                f"A7 Hydra: {path.relative_to(cases / '25-hydra-paths')} (case 25)",
                [*SIMULATE, f"trace.path={path}"],
                "^runs/|\nruns/",
                FIELD + "test_paths_of_the_field_are_read",
            )
            for path in paths
        ),
    ]


def given_hostile(cases: Path) -> list[Case]:
    """Files that hang or kill their reader."""
    return [
        *(
            Case(
                f"D files: {name} (hostile)",
                ["-m", "rltune.devices", "plan", f"{cases}/hostile/{name}", "--device", "simulated:a100-80gb"],
                "refused",
                FIELD + "test_hostile_files_are_refused",
            )
            for name in ("deep.yaml", "laughs.yaml")
        ),
    ]


def own_slurm(files: Files) -> list[Case]:
    """Slurm: shares, attempts, clocks, gangs, near misses."""
    return [
        reading(
            "A1 Slurm: gres/mps",
            files.file("mps.txt", HEADER + job("1", "gres/mps=25")),
            "1: 1 x 250/1000",
            SLURM + "test_slices_and_shares_are_no_whole_gpus",
        ),
        reading(
            "A1 Slurm: gres/shard",
            files.file("shard.txt", HEADER + job("1", "gres/gpu=1") + job("2", "gres/shard=4")),
            "shares of GPUs .gres/shard",
            NAMED,
        ),
        reading(
            "A2 Slurm: a recycled id",
            files.file("recycled.txt", HEADER + job("7", "gres/gpu=1") + job("7", "gres/gpu=1", "bob")),
            "7#2: ",
            SLURM + "test_every_attempt_is_a_run",
        ),
        reading(
            "A4 Slurm: milliseconds",
            files.file("ms.txt", HEADER + job("7", "gres/gpu=1", start="1729991100000")),
            "refused.*milliseconds",
            SLURM + "test_clocks_that_cannot_be_compared_are_refused",
        ),
        reading(
            "A5 Slurm: het components",
            files.file("het.txt", HEADER + job("5+0", "gres/gpu=8") + job("5+1", "gres/gpu=4")),
            "5: 12 x GPU",
            SLURM + "test_components_are_one_gang",
        ),
        reading(
            "A7 sacct --json",
            files.file("slurm.json", '{"jobs": [{"job_id": 1}], "meta": {}, "errors": []}'),
            "refused.*sacct --parsable2",
            SLURM + "test_json_of_slurm_gets_a_remedy",
        ),
        reading("A7 sacct --noheader", files.file("noheader.txt", job("1", "gres/gpu=1")), "refused.*--noheader", NEAR),
        reading(
            "A7 sacct: a missing column",
            files.file("missing.txt", HEADER.replace("Submit|", "Comment|") + job("1", "gres/gpu=1")),
            "refused.*without submit",
            NEAR,
        ),
        reading(
            "A7 sacct: GRES not tracked",
            files.file("untracked.txt", HEADER + job("1", "cpu=4,node=1")),
            "refused.*AccountingStorageTRES",
            NEAR,
        ),
    ]


def own_pods(files: Files) -> list[Case]:
    """Pods: shares, claims, slices under the single strategy."""
    selector = {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"}}
    return [
        reading(
            "A1 Kubernetes: HAMi",
            files.pods("hami.json", pod("p", {"nvidia.com/gpu": 1, "nvidia.com/gpucores": 30})),
            "p: 1 x 300/1000",
            KEPT,
        ),
        reading(
            "A1 Kubernetes: gpu.shared",
            files.pods("shared.json", pod("p", {"nvidia.com/gpu.shared": 1})),
            "time-shared GPUs",
            BY_NAME,
        ),
        reading(
            "A1 Kubernetes: single MIG strategy",
            files.pods("single-mig.json", pod("p", {"nvidia.com/gpu": 1}, **selector)),
            "p: 1 x 1g.5gb",
            KEPT,
        ),
        reading(
            "A1 Kubernetes: DRA claims",
            files.pods("dra.json", pod("p", {}, resourceClaims=[{"name": "g"}])),
            "resource claims .DRA",
            BY_NAME,
        ),
    ]


def own_tables(files: Files) -> list[Case]:
    """Tables: AcmeTrace, the spot trace, CSV of one's own."""
    acme = (
        "job_id,user,node_num,gpu_num,cpu_num,type,state,submit_time,start_time,end_time,duration,queue,gpu_time\n"
        "5778432,u5907,1,8,128,Other,FAILED,2023-03-01 00:18:22+08:00,2023-03-01 00:18:54+08:00,2023-03-01 00:20:51+08:00"
        ",117,32,936.0\n"
    )
    spot = "job_name,organization,gpu_model,cpu_request,gpu_request,worker_num,submit_time,duration,job_type\n" + (
        "437260,57,A100-SXM4-80GB,15,1,16,9589663,41060,Spot\n"
    )
    return [
        reading(
            "A4 own CSV: milliseconds",
            files.file("ms.csv", CSV + "\na,1729991100000,1,1,ann\n"),
            "refused.*milliseconds",
            TABLES + "test_milliseconds_are_refused",
        ),
        reading(
            "A4 own CSV: negative waits",
            files.file("wait.csv", CSV + ",wait_s\na,0,1,1,ann,-2700\n"),
            "1 jobs start before",
            TABLES + "test_waits_below_zero_are_counted_or_refused",
        ),
        reading(
            "A7 AcmeTrace",
            files.file("trace_seren.csv", acme),
            "5778432: 8 x GPU, arrives 0, user 'u5907', waits 32, runs 117",
            TABLES + "test_acme_traces_are_read",
        ),
        reading(
            "A7 v2026-spot-gpu",
            files.file("job_info_df.csv", spot),
            "437260: 16 x GPU.*of A100-80GB",
            TABLES + "test_alibabas_spot_trace_is_read",
        ),
        reading(
            "A8 own CSV: a column twice",
            files.file("twice.csv", CSV + ",user\na,0,1,1,ann,bob\n"),
            "refused.*stands twice",
            TABLES + "test_a_column_that_stands_twice_is_refused",
        ),
        reading(
            "A8 own CSV: comments in the middle",
            files.file("comment.csv", CSV + "\na,0,1,1,ann\n#b,1,1,8,ann\n"),
            "^(?!.*#b:).*1 comment lines",
            TABLES + "test_comments_between_rows_are_no_jobs",
        ),
        reading(
            "A8 own CSV: NA as a name",
            files.file("na.csv", CSV + "\na,0,1,1,NA\nb,0,1,1,null\n"),
            "user 'NA'.*user 'null'",
            TABLES + "test_names_that_look_like_nothing_are_names",
        ),
        reading(
            "A8 own CSV: trailing blanks",
            files.file("blank.csv", CSV + "\na,0,1,1,ann\nb,0,1,1,ann \n"),
            "b: .*user 'ann'",
            TABLES + "test_blanks_around_cells_make_no_second_user",
        ),
        reading(
            "A8 own CSV: rows after a quoted newline",
            files.file("rows.csv", CSV + '\na,0,1,1,"x\ny"\nb,oops,1,1,ann\n'),
            "refused.*row 4: submit_s",
            TABLES + "test_rows_are_counted_as_an_editor_counts_lines",
        ),
        Case(
            "A8 exports: a cell that begins with =",
            ["-c", CONVERT, str(files.file("formula.csv", CSV + "\n=1+1,0,1,1,ann\n"))],
            "'=1[+]1,",
            TABLES + "test_exported_names_are_no_formulas",
        ),
    ]


def own_hostile(files: Files) -> list[Case]:
    """Bombs, deep nesting, absurd sizes."""
    blank = gzip.compress(b"\n" * 2**28, compresslevel=9, mtime=0)
    return [
        reading(
            "D files: gzip bomb of 1 MB",
            files.file("bomb.csv.gz", gzip.compress(CSV.encode()) + 16 * blank),
            "refused.*unpacks to more",
            TABLES + "test_a_gzip_bomb_is_refused_soon",
        ),
        *(
            Case(
                f"D files: {name} as a run's config.yaml",
                [
                    "-m",
                    "rltune.compare",
                    str(run_of(files.folder / name, text)),
                    str(run_of(files.folder / f"{name}-other", "a: 1")),
                ],
                "refused.*(nested more than|aliases written out)",
                "test_simulate.py::test_comparisons_that_say_nothing_are_refused",
            )
            for name, text in (("deep", "a: " + "[" * 100_000), ("aliases", ALIASES))
        ),
        reading(
            "D files: nested JSON",
            files.file("deep.json", "[" * 100_000),
            "refused",
            TABLES + "test_deeply_nested_json_is_refused",
        ),
        Case(
            "D files: nodes=10^9",
            [
                *SIMULATE[:-2],
                "nodes=1000000000",
                f"trace.path={files.file('jobs.csv', CSV + chr(10) + 'a,0,1,1,ann' + chr(10))}",
            ],
            "refused.*at most 1,000,000",
            "test_cluster.py::test_absurd_sizes_are_refused",
        ),
        Case(
            "D files: jobs=10^12",
            ["-m", "rltune.simulate", "+trace=synthetic", "trace.jobs=1000000000000", "policy=fifo"],
            "refused.*at most 50,000,000",
            TABLES + "test_generators_refuse_absurd_numbers_of_jobs",
        ),
    ]
