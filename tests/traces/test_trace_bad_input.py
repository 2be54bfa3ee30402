"""Whatever is wrong with a file or a name is told in one line: where, what, and the remedy."""

import gzip
import json
from pathlib import Path

import pytest

from rltune.nouns.errors import InputError
from rltune.traces import TRACES, load_trace

HEADER = "job_id,submit_s,duration_s,num_gpus\n"
RLTUNE_ROW = "j,0,-1,25,8,-1,-1,4,-1,29.3,2,7,1,-1,0,-1,-1,-1,{}\n"


def refused(name_or_path: object, **options: object) -> str:
    """The message of the InputError that loading gives."""
    with pytest.raises(InputError) as caught:
        load_trace(name_or_path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (HEADER + "a,0,1,1\nb,nan,1,1\n", "row 3: submit_s"),
        (HEADER + "a,0,1,1\nb,5,-2,1\n", "row 3 (job b): duration_s is negative"),
        (HEADER + "a,-1,1,1\n", "row 2 (job a): submit_s is negative"),
        (HEADER + "a,0,1,0\n", "row 2 (job a): num_gpus"),
        (HEADER + "a,0,1,2.5\n", "row 2 (job a): num_gpus"),
        (HEADER + "a,0,long,1\n", "'long'"),
        (HEADER + "a,0,inf,1\n", "row 2: duration_s"),
        (HEADER + "a,0,1,1\n\na,1,1,1\n", "row 4: job_id 'a' stands already in row 2"),
        (HEADER + ",0,1,1\n", "row 2: job_id is empty"),
        (HEADER + "a,0,1\n", "row 2: num_gpus"),
        (HEADER + "a,0,1,1\nb,0,1,1,7\n", "line 3"),
        (HEADER + "a,0,1,1,7\n", "line 2, saw 5"),
        (HEADER, "the trace is empty"),
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        ("x,y\n1,2\n", "found columns x, y; say what they are, e.g. trace.columns.submit_s=COLUMN"),
        (HEADER.replace("submit_s", "sent") + "a,0,1,1\n", "the plain format lacks submit_s and knows no sent"),
        (HEADER.replace("job_id", 'job_id"') + "a,0,1,1\n", "row 1: the quotes of the column names"),
        ('[{"jobid": ', "malformed JSON"),
        ('{"jobs": []}', "no list of jobs"),
        ('[{"jobid": "a"}]', "record 1: status, vc, attempts"),
        (RLTUNE_ROW.format(7), "row 1: gpu_type is '7'"),
    ],
)
def test_bad_content_is_refused_by_line(tmp_path: Path, content: str, told: str) -> None:
    """A user could not find the faulty row."""
    path = tmp_path / "mine.csv"
    path.write_text(content)
    message = refused(path)
    assert told in message
    assert message.startswith("mine.csv: ")


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("cut.csv.gz", gzip.compress(HEADER.encode() * 99, mtime=0)[:-20], "damaged gzip"),
        ("bad.csv.gz", b"\x1f\x8b" + b"\x00" * 40, "damaged gzip"),
        ("bad.parquet", b"PAR1 but nothing else", "damaged Parquet"),
        ("text.parquet", HEADER.encode(), "damaged Parquet"),
        ("latin.csv", HEADER.encode() + b"\xe9,0,1,1\n", "not UTF-8"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, file: str, content: bytes, told: str) -> None:
    """A half-copied file would be read as a shorter trace or end in a stack trace."""
    (tmp_path / file).write_bytes(content)
    assert told in refused(tmp_path / file)


@pytest.mark.parametrize(
    ("attempts", "told"),
    [
        ([{"start_time": "noon", "end_time": "None", "detail": []}], "'noon' is no time"),
        ([{"start_time": "None", "end_time": "None"}], "an attempt is malformed"),
        (["x"], "an attempt is malformed"),
        ([], "no job with a finished attempt"),
    ],
)
def test_malformed_philly_attempts_name_the_record(tmp_path: Path, attempts: list[object], told: str) -> None:
    """A damaged log would end in a stack trace."""
    job = {"status": "Pass", "vc": "v", "jobid": "a", "attempts": attempts, "submitted_time": "", "user": "u"}
    path = tmp_path / "log.json"
    path.write_text(json.dumps([job]))
    assert told in refused(path)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    """A typing error in a path would end in a stack trace."""
    assert "no such file" in refused(tmp_path / "nothing.csv")
    assert "is a directory" in refused(tmp_path)


def test_unknown_name_lists_the_known() -> None:
    """A user could not find the right name."""
    message = refused("helois")
    assert all(name in message for name in TRACES)


def test_unknown_option_lists_the_known(no_traces: Path) -> None:
    """A misspelt option would be ignored."""
    assert "unknown option sqeeze; known: squeeze" in refused("rltune_helios", sqeeze=10)
    assert "unknown option jobs; known: none" in refused("helios", jobs=10)
    assert "a file has columns alone" in refused("./jobs.csv", jobs=10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rltune_philly", {"squeeze": 0}),
        ("rltune_philly", {"squeeze": 2.5}),
        ("alibaba", {"load_scale": 0}),
        ("synthetic", {"jobs": 0}),
        ("synthetic", {"median_s": 10, "mean_s": 5}),
        ("synthetic", {"gpu_mix": {1: 0}}),
        ("helios_calibrated", {"clamp_s": 0}),
        ("helios_calibrated", {"cluster": "pluto"}),
        ("helios_calibrated", {"jobs": 0}),
        ("helios_earth_calibrated", {"clamp_s": 0.5}),
        ("philly_calibrated", {"jobs": -1}),
        ("alibaba_calibrated", {"jobs": 0}),
    ],
)
def test_option_out_of_range(no_traces: Path, name: str, options: dict[str, object]) -> None:
    """Nonsense would run for hours before it shows."""
    assert refused(name, **options).startswith(f"trace {name}: ")


@pytest.mark.parametrize("name", ["philly", "alibaba", "philly_sia", "rltune_helios"])
def test_missing_trace_tells_how_to_get_one(no_traces: Path, name: str) -> None:
    """A new user would not know what to do next."""
    message = refused(name)
    assert "+trace=synthetic" in message
    if name in ("philly", "alibaba"):
        assert f"python -m rltune.traces fetch {name}" in message


def test_named_folder_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misspelt RLTUNE_TRACES would quietly give generated jobs for helios."""
    monkeypatch.setenv("RLTUNE_TRACES", str(tmp_path / "nowhere"))
    assert "no such folder" in refused("helios")
