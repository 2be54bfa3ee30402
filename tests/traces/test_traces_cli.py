"""``python -m rltune.traces`` as a user types it."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rltune.traces import Trace, load_trace, parquet
from rltune.traces.__main__ import main
from rltune.traces.fetch import PUBLICATIONS

LOG = """job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue
11,uA,vcX,8,64,1,COMPLETED,2020-04-01 00:00:30,2020-04-01 00:01:00,2020-04-01 00:02:00,60,30
"""


class Quiet(SimpleHTTPRequestHandler):
    """A file server that prints nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A publisher on this machine: its address and its folder."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def publish(monkeypatch: pytest.MonkeyPatch, name: str, url: str, sha256: str | None) -> None:
    """Let a publication come from another address."""
    monkeypatch.setitem(PUBLICATIONS, name, replace(PUBLICATIONS[name], url=url, sha256=sha256))


def test_module_runs_and_errors_are_one_line(no_traces: Path) -> None:
    """A shell script could not tell success from failure."""
    command = [sys.executable, "-m", "rltune.traces", "describe", "philly"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: trace philly: ")
    assert done.stderr.count("\n") == 1


def test_list_says_what_is_here(no_traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user could not see that helios would be generated."""
    assert main(["list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["helios"]["source"] == "calibrated"
    assert rows["philly"]["source"] == "missing"
    assert rows["philly"]["jobs"] is None
    assert rows["synthetic"]["jobs"] == 1000
    assert main(["list"]) == 0
    assert "calibrated" in capsys.readouterr().out


def test_list_tells_a_broken_file_from_a_missing_one(no_traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated download would look as if it had never come."""
    (no_traces / "cluster_job_log").write_text("[{")
    assert main(["list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["philly"]["source"] == "unreadable"
    assert "malformed JSON" in rows["philly"]["problem"]


def test_describe_prints_table_and_json(tmp_path: Path, by_hand: Trace, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures could not be read by people or by programs."""
    path = str(parquet.write(by_hand, tmp_path / "hand.parquet"))
    assert main(["describe", path]) == 0
    assert by_hand.sha256 in capsys.readouterr().out
    assert main(["describe", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 4


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_convert_keeps_the_content(
    tmp_path: Path, by_hand: Trace, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A converted trace would be another trace."""
    source, out = parquet.write(by_hand, tmp_path / "hand.parquet"), tmp_path / f"out.{suffix}"
    assert main(["convert", str(source), str(out)]) == 0
    assert by_hand.sha256 in capsys.readouterr().out
    assert load_trace(out).sha256 == by_hand.sha256


def test_convert_refuses_other_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A .xlsx that holds CSV would open nowhere."""
    assert main(["convert", "synthetic", str(tmp_path / "out.xlsx")]) == 2
    assert ".parquet or .csv" in capsys.readouterr().err


def test_fetch_unpacks_a_zip_without_checksum(
    no_traces: Path,
    site: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The fetched log would not be found, or another cluster's would be taken."""
    with zipfile.ZipFile(site[1] / "data.zip", "w") as packed:
        packed.writestr("data/Earth/cluster_log.csv", "another cluster")
        packed.writestr("data/Venus/cluster_log.csv", LOG)
    publish(monkeypatch, "helios", f"{site[0]}/data.zip", None)
    assert main(["fetch", "helios"]) == 0
    digest = hashlib.sha256((site[1] / "data.zip").read_bytes()).hexdigest()
    assert f"no published checksum known; sha256 of what you got: {digest}" in capsys.readouterr().out
    assert load_trace("helios").source == "real"


def test_fetch_verifies_a_known_checksum(
    no_traces: Path,
    site: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A manipulated or broken archive would be used."""
    content = b"j1,worker,3,Terminated,100.0,160.0,600,29.3,50,T4\n"
    entry = tarfile.TarInfo("pai_task_table.csv")
    entry.size = len(content)
    with tarfile.open(site[1] / "tasks.tar.gz", "w:gz") as packed:
        packed.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha256((site[1] / "tasks.tar.gz").read_bytes()).hexdigest()
    publish(monkeypatch, "alibaba", f"{site[0]}/tasks.tar.gz", "0" * 64)
    assert main(["fetch", "alibaba"]) == 2
    assert "published is 000" in capsys.readouterr().err
    assert list(no_traces.iterdir()) == []
    publish(monkeypatch, "alibaba", f"{site[0]}/tasks.tar.gz", digest)
    assert main(["fetch", "alibaba"]) == 0
    assert f"sha256 verified: {digest}" in capsys.readouterr().out
    assert len(load_trace("alibaba")) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "404"),
        (b"<html>sign in</html>", "another kind"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    ],
)
def test_failed_fetch_leaves_nothing_and_tells_the_way_by_hand(
    no_traces: Path,
    site: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    told: str,
) -> None:
    """A login page would lie where the trace should be."""
    if content is not None:
        (site[1] / "data.zip").write_bytes(content)
    publish(monkeypatch, "helios", f"{site[0]}/data.zip", None)
    assert main(["fetch", "helios"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: fetch helios from ")
    assert told in message
    assert "by hand: download data.zip" in message
    assert list(no_traces.iterdir()) == []


def test_fetch_offline_tells_the_way_by_hand(
    no_traces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine without a network would show a stack trace."""
    publish(monkeypatch, "philly", "http://127.0.0.1:9/trace-data.tar.gz", None)
    assert main(["fetch", "philly"]) == 2
    assert "by hand: clone" in capsys.readouterr().err


def test_fetch_of_an_unknown_name_lists_the_known(no_traces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user could not find the right name."""
    assert main(["fetch", "google"]) == 2
    assert "helios, philly, alibaba" in capsys.readouterr().err
