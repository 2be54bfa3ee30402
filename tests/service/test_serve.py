"""``python -m rltune.serve``: addresses that are safe, one service a directory, an end in order, backups that can be restored."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from rltune.config.declare import defaults
from rltune.config.serving import Serve
from rltune.nouns.errors import InputError
from rltune.serve import check_address, is_loopback, listening, main, users_of, words_of
from rltune.service.opening import alone, opened
from rltune.service.specs import JobSpec
from rltune.service.store import Store

LIVE = {"_target_": "x", "spec": {"name": "live", "pools": [{"name": "a", "nodes": 2, "gpus_per_node": 2, "gpu_type": "A100-40GB", "mig": True}]}}  # fmt: skip


def options(tmp_path, **given):
    usual = {**defaults(Serve), "cluster": LIVE, "allocator": {"name": "best_fit"}, "state": str(tmp_path / "state")}
    return {**usual, "device": "virtual", "port": 0, **given}


# --- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"host": "0.0.0.0"}, "without TLS would show tokens"),
        ({"host": "192.168.1.7"}, "without TLS would show tokens"),
        ({"host": "localhost.evil.example"}, "without TLS"),
        ({"host": "0.0.0.0", "auth": "none", "insecure": True}, "anybody could run commands"),
        ({"tls_cert": "cert.pem"}, "tls_cert needs the other"),
        ({"tls_cert": "/nowhere/cert", "tls_key": "/nowhere/key"}, "cannot be used"),
    ],
)
def test_addresses_that_show_tokens_are_refused(tmp_path, given, message):
    """Tokens would go over the network for everybody to read."""
    with pytest.raises(InputError, match=message):
        check_address(options(tmp_path, **given))


def test_addresses_of_this_machine_need_no_tls(tmp_path, monkeypatch):
    """The simplest start would be refused."""
    assert [is_loopback(x) for x in ("127.0.0.1", "127.8.9.1", "::1", "localhost", "::", "10.0.0.1")] == [True] * 4 + [
        False
    ] * 2
    assert check_address(options(tmp_path)) == {} == check_address(options(tmp_path, host="0.0.0.0", insecure=True))
    monkeypatch.setattr("rltune.serve.FREE_S", 0.0)
    with listening("127.0.0.1", 0) as taken, pytest.raises(InputError, match="cannot listen there"):
        taken.listen()
        listening("127.0.0.1", taken.getsockname()[1])


def test_an_address_that_comes_free_is_waited_for():
    """A service that is started anew after a kill would find its address still taken, and not start."""
    taken = listening("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    freed = threading.Timer(0.5, taken.close)
    freed.start()
    with listening("127.0.0.1", port) as free:
        assert free.getsockname()[1] == port
    freed.join()


def test_users_that_are_no_mapping_are_refused(tmp_path, monkeypatch):
    """A slip would let all jobs run as the service."""
    for wrong in ("ann", ["ann"], {"ann": 7}):
        with pytest.raises(InputError, match="tenants and their Unix users"):
            users_of(options(tmp_path, users=wrong))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    asked = options(tmp_path, device="simulated")
    assert not users_of(asked).as_service and users_of(asked | {"as_service": True}).as_service
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert users_of(options(tmp_path)).as_service
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert users_of(options(tmp_path, device="virtual")).as_service


# --- one state directory ---------------------------------------------------------------------------


def test_two_services_do_not_share_a_directory(tmp_path):
    """Two would give the same GPUs away."""
    with alone(tmp_path), pytest.raises(InputError, match="another service uses it"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_a_service_goes_on_where_it_was(tmp_path):
    """After a restart jobs, policy and time would begin anew."""
    with opened(options(tmp_path)) as first:
        name = first.engine.ask(
            lambda e: e.submit([JobSpec.model_validate({"command": ["x"], "gpus": 2})], "ann")[0]
        ).result()
        first.engine.ask(
            lambda e: first.policies.use(first.policies.with_changes({"policy": "sjf"}), e.live.rules)
        ).result()
        at = first.engine.now
    with opened(options(tmp_path)) as again:
        assert again.engine.ledger.records[name].tenant == "ann" and again.engine.clock.now() >= at
        assert again.policies.current.policy == "sjf" and "as it was set while the service ran" in " ".join(again.notes)
    with opened(options(tmp_path, policy="las")) as changed:
        assert changed.engine.live.rules.policy == "las"


def test_clusters_that_cannot_be_simulated_are_refused(tmp_path):
    """A service would start on machines that are not what they seem."""
    v100 = {"spec": {"pools": [{"name": "v", "nodes": 1, "gpus_per_node": 2, "gpu_type": "V100"}]}}
    with (
        pytest.raises(InputError, match="GPU type V100 cannot be simulated"),
        opened(options(tmp_path, cluster=v100, device="simulated")),
    ):
        pass
    many = {"spec": {"pools": [{"name": "a", "nodes": 65, "gpus_per_node": 1, "gpu_type": "A30", "mig": True}]}}
    with (
        pytest.raises(InputError, match="at most 64 run real processes"),
        opened(options(tmp_path, cluster=many, device="simulated")),
    ):
        pass
    with (
        pytest.raises(InputError, match="cluster=auto is a trace's own"),
        opened(options(tmp_path, cluster={"auto": True})),
    ):
        pass


# --- commands beside -------------------------------------------------------------------------------


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["serve", *words])
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code
    told = capsys.readouterr()
    return status, told.out, told.err


def test_backups_are_restored_and_the_journal_is_a_trace(tmp_path, monkeypatch, capsys):
    """After a disk has failed everything would be lost; and what ran could not be simulated again."""
    from rltune.traces import load_trace

    state = f"state={tmp_path / 'state'}"
    with opened(options(tmp_path)) as service:
        specs = [
            JobSpec.model_validate({"command": ["x"], "profile": "3g", "estimate_s": 9}),
            JobSpec.model_validate({"command": ["x"], "gpus": 2}),
        ]
        service.engine.ask(lambda e: e.submit(specs, "ann")).result()
        running = "SELECT COUNT(*) FROM jobs WHERE state = 'running'"
        while service.store.read(running)[0][0] < 2:
            time.sleep(0.01)
        for machine in service.engine.dispatch.machines.values():
            for name in machine.inventory().runs:
                machine.end(name)
        while service.store.read("SELECT COUNT(*) FROM jobs WHERE state = 'done'")[0][0] < 2:
            time.sleep(0.01)
        assert run(monkeypatch, capsys, "backup", str(tmp_path / "copy"), state)[0] == 0
        assert run(monkeypatch, capsys, "restore", str(tmp_path / "copy"), state)[2].startswith("error: state=")
    status, _, told = run(monkeypatch, capsys, "export", str(tmp_path / "jobs.csv"), state)
    assert status == 0 and "2 jobs; 0 left out" in told
    trace = load_trace(tmp_path / "jobs.csv")
    assert (
        len(trace) == 2 and list(trace.jobs.mig.values()) == ["3g.20gb", None] and list(trace.jobs.num_gpus) == [1, 2]
    )
    (tmp_path / "state" / "state.sqlite").write_bytes(b"damaged")
    assert run(monkeypatch, capsys, "check", state)[0] != 0
    assert run(monkeypatch, capsys, "restore", str(tmp_path / "copy"), state)[0] == 0
    assert run(monkeypatch, capsys, "check", state)[:2] == (0, "nothing is wrong with it\n")
    (tmp_path / "bad").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    status, _, told = run(monkeypatch, capsys, "restore", str(tmp_path / "bad"), state)
    assert status == 2 and told.count("\n") == 1 and run(monkeypatch, capsys, "check", state)[0] == 0


def test_tokens_are_managed_beside_the_service(tmp_path, monkeypatch, capsys):
    """An operator could not let a tenant in, or shut one out."""
    state = f"state={tmp_path}"
    status, token, _ = run(monkeypatch, capsys, "token", "add", "ann", "role=tenant", "tenant=ann", state)
    assert status == 0 and token.startswith("rlt_")
    assert (
        "ann" in run(monkeypatch, capsys, "token", "list", state)[1]
        and token.strip() not in run(monkeypatch, capsys, "token", "list", state)[1]
    )
    assert run(monkeypatch, capsys, "token", "revoke", "ann", state)[0] == 0
    assert "revoked" in run(monkeypatch, capsys, "token", "list", state)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nix"], "command 'nix' is unknown; known are token"),
        (["token"], "usage: python -m rltune.serve token add"),
        (["token", "add", "x", "rol=reader"], "option rol is unknown; known are state, role, tenant"),
        (["token", "list", "state=/nowhere/at/all"], "no service has run there"),
        (["backup"], "usage:"),
        (["restore", "/nowhere/file"], "no such file"),
        (["export", "x", "leases=maybe"], "usage:"),
        (["check", "all"], "usage:"),
    ],
)
def test_wrong_commands_are_one_line(monkeypatch, capsys, tmp_path, words, message):
    """A slip would end in a traceback, or do something else."""
    monkeypatch.setenv("RLTUNE_STATE", str(tmp_path))
    status, _, told = run(monkeypatch, capsys, *words)
    assert status == 2 and told.startswith("error: ") and message in told and told.count("\n") == 1


def test_words_are_taken_apart():
    """A file with = in its name would be taken for an option silently."""
    assert words_of(["a", "state=b"], "u", {"state": ""}) == (["a"], {"state": "b"})
    with pytest.raises(InputError, match="option x is unknown"):
        words_of(["x=y"], "u", {"state": ""})


# --- the whole -------------------------------------------------------------------------------------


class Process:
    """The service in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.out = folder / "serve.out"
        command = [
            sys.executable,
            "-m",
            "rltune.serve",
            "device=virtual",
            "port=0",
            f"state={folder / 'state'}",
            *words,
        ]
        with self.out.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def url(self) -> str:
        while not (found := re.search(r"^address\s+(\S+)$", self.out.read_text(), re.M)):
            assert self.process.poll() is None, self.out.read_text()
            time.sleep(0.05)
        return found[1]

    def end(self, sig: int) -> int:
        self.process.send_signal(sig)
        return self.process.wait(300)


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_the_service_starts_answers_and_ends_in_order(tmp_path, sig):
    """The command would not serve, or its end would lose answers or hang on an open stream."""
    served = Process(tmp_path)
    try:
        url = served.url()
        token = (tmp_path / "state" / "operator.token").read_text().strip()
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=300) as http:
            assert http.post("/v1/jobs", json={"command": ["x"]}).json() == {"jobs": ["job-1"]}
            assert http.get("/ready").json()["ok"] and "rltune" in http.get("/docs").text
            with http.stream("GET", "/v1/events?since=0") as stream:
                lines = stream.iter_lines()
                while "submitted" not in next(lines):
                    pass
                assert served.end(sig) == 0
                assert list(lines) is not None
        assert "stopped; jobs go on" in served.out.read_text()
    finally:
        served.process.kill()
    store = Store(tmp_path / "state" / "state.sqlite")
    assert [row["id"] for row in store.read("SELECT id FROM jobs")] == ["job-1"]
    store.close()


@pytest.mark.slow
def test_endless_headers_are_cut_off(tmp_path):
    """One client without a token would fill the memory."""
    served = Process(tmp_path)
    try:
        host, port = served.url().removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=300) as link:
            link.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
            sent = 0
            with pytest.raises(OSError):
                while sent < 1 << 26:
                    link.sendall(b"x" * 65_536)
                    sent += 65_536
        assert sent < 1 << 24
        assert httpx.get(f"http://{host}:{port}/health", timeout=300).status_code == 200
    finally:
        served.process.kill()
