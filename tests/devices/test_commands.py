"""``python -m rltune.devices``: what people and scripts see - output, exit status, one clear line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from execution_cases import PATIENCE_S

from rltune.device_commands.main import COMMANDS, main
from rltune.devices.lock import locked
from rltune.devices.nvml import NvmlDriver

SPEC = "version: 1\ngpus: [{gpu: 0, instances: [3g.40gb@4, 1g.10gb, 1g.10gb]}]\n"


@pytest.fixture
def devices(tmp_path, monkeypatch, capsys):
    """Runs a command on a simulated machine; (status, output, errors)."""
    monkeypatch.setenv("RLTUNE_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("RLTUNE_DEVICE", "simulated:2xa100-80gb")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([*words, *(["--pace", "0"] if words[0] in COMMANDS else [])])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


def refused(answer, says, status=2):
    code, out, errors = answer
    assert code == status and errors.startswith("error: ") and errors.count("\n") == 1, (code, out, errors)
    assert says in errors
    return errors


def test_from_plan_to_verify(devices):
    """The way that every user goes first would not end where it says."""
    status, out, _ = devices("plan", "spec.yaml", "--out", "plan.json")
    assert status == 0 and "+ create 3g.40gb@4" in out and "Plan: 0 to destroy, 3 to create, 0 kept" in out
    assert devices("verify", "spec.yaml")[0] == 1
    status, out, _ = devices("apply", "plan.json")
    assert status == 0 and "Applied and verified (transaction 1)." in out
    assert devices("verify", "spec.yaml")[:2] == (0, "The GPUs are as the spec says.\n")
    assert "Nothing to do" in devices("apply", "spec.yaml")[1]
    listed = json.loads(devices("history", "--json")[1])
    assert [one["outcome"] for one in listed] == ["committed"] and len(listed[0]["steps"]) == 3
    refused(devices("apply", "plan.json"), "not the state that the plan was made on; plan anew")


def test_clear_destroys_what_nobody_holds(devices):
    """Clearing a GPU would take a file, or take a tenant's instance along."""
    devices("apply", "spec.yaml")
    devices("tenants", "claim", "0", "3g.40gb@4", "alice")
    assert "- destroy 1g.10gb" in devices("clear", "--dry-run")[1] and devices("verify", "spec.yaml")[0] == 0
    status, out, _ = devices("clear")
    assert (
        status == 0 and "= keep 3g.40gb@4 (in use: tenant alice)" in out and "2 to destroy, 0 to create, 1 kept" in out
    )
    assert "1 to destroy" in devices("clear", "--gpus", "0", "--tenant", "alice")[1]
    assert "Nothing to do" in devices("clear")[1]
    refused(devices("clear", "--gpus", "9"), "GPU 9 does not exist")


def test_a_dry_run_changes_nothing(devices):
    """A rehearsal would be the real thing."""
    status, out, _ = devices("apply", "spec.yaml", "--dry-run")
    assert status == 0 and "nothing was changed" in out
    assert devices("verify", "spec.yaml")[0] == 1 and devices("history")[1] == "Nothing was applied yet.\n"


def test_a_dry_run_refuses_what_apply_refuses(devices):
    """A rehearsal would promise what the real thing then refuses."""
    devices("plan", "spec.yaml", "--out", "plan.json")
    devices("apply", "spec.yaml")
    refused(devices("apply", "plan.json", "--dry-run"), "plan anew")


def test_applies_on_different_gpus_do_not_meet(devices, tmp_path):
    """An administrator would have to wait for a run on another GPU."""
    gpu = json.loads(devices("plan", "spec.yaml", "--json")[1])["gpus"][0]["uuid"]
    (tmp_path / "other.yaml").write_text("version: 1\ngpus: [{gpu: 1, instances: [7g.80gb]}]\n")
    with locked(tmp_path / f"state/rltune-{gpu}.lock"):
        assert devices("apply", "other.yaml")[0] == 0


def test_a_plan_is_json_for_programs(devices):
    """A script would have to read what is meant for people."""
    plan = json.loads(devices("plan", "spec.yaml", "--json")[1])
    assert plan["version"] == 1 and plan["gpus"][0]["steps"] == [
        "create 3g.40gb@4",
        "create 1g.10gb@0",
        "create 1g.10gb@1",
    ]


def test_export_goes_both_ways(devices, tmp_path):
    """The present state could not be kept, or not be handed to mig-parted."""
    devices("apply", "spec.yaml")
    (tmp_path / "kept.yaml").write_text(devices("export")[1])
    (tmp_path / "parted.yaml").write_text(devices("export", "--format", "mig-parted")[1])
    assert devices("verify", "kept.yaml")[0] == 0
    assert devices("verify", "parted.yaml", "--config", "current")[0] == 0


def test_an_export_tells_what_it_leaves_out(fake_nvml, devices, tmp_path, monkeypatch):
    """A kept state would lack a GPU or an instance that nobody knows of until it is applied."""
    nvml = fake_nvml(["A100-80GB", "A100-80GB"])
    driver = NvmlDriver()
    driver.create_gpu_instance(0, "3g.40gb", 4)
    driver.create_compute_instance(0, driver.create_gpu_instance(0, "2g.20gb", 0), 1)
    driver.close()
    nvml.lose(1)
    monkeypatch.setenv("RLTUNE_DEVICE", "nvml")
    for kind in ("rltune", "mig-parted"):
        status, out, errors = devices("export", "--format", kind)
        assert status == 0 and "GPU 1 cannot be reached and is left out" in errors
        assert "1 GPU instances without compute instances are left out" in errors and "3g" not in out
    assert "which compute instances share a GPU instance" in errors
    nvml.lose(0)
    refused(devices("export"), "GPU 0, 1 cannot")


PLANS = {
    "twice by number": (lambda gpus: gpus[1].update(index=0), "GPU 0 stands in it twice"),
    "twice by UUID": (lambda gpus: gpus[1].update(uuid=gpus[0]["uuid"]), "stands in it twice"),
    "endless number": (lambda gpus: gpus[0].update(index=float("inf")), "gpus[0]: index=inf; a number of a GPU is needed"),
    "no number": (lambda gpus: gpus[0].update(index=float("nan")), "gpus[0]: index=nan; a number of a GPU is needed"),
    "negative": (lambda gpus: gpus[0].update(index=-1), "gpus[0]: index=-1; a number of a GPU is needed"),
    "true": (lambda gpus: gpus[0].update(index=True), "gpus[0]: index=True; a number of a GPU is needed"),
    "instance twice": (
        lambda gpus: gpus[0]["after"].update(instances=["3g.40gb@0", "3g.40gb@0[1]"]), "instance 3g.40gb@0 stands in it twice",
    ),
    "useless instance": (lambda gpus: gpus[0]["after"].update(instances=["3g.40gb@0[]"]), "3g.40gb@0[] after it"),
    "digits": (lambda gpus: gpus[0]["after"].update(instances=["3g.40gb@" + "9" * 5000]), "is no instance"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_that_is_none_of_ours_is_refused(devices, tmp_path, name):
    """A plan that somebody edited would be carried out half, or end in a traceback."""
    (tmp_path / "both.yaml").write_text("version: 1\ngpus: [{gpu: all, instances: [3g.40gb@0]}]")
    plan = json.loads(devices("plan", "both.yaml", "--json")[1])
    change, says = PLANS[name]
    change(plan["gpus"])
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    errors = refused(devices("apply", "plan.json"), says)
    assert "is no whole plan" in errors and "plan anew" in errors


def test_history_shows_as_many_as_there_are(devices):
    """A number that SQLite cannot hold would end in a traceback; one below 1 would show everything or nothing."""
    devices("apply", "spec.yaml")
    assert devices("history", "--most", str(10**30))[1].startswith("1  ")


def test_a_plan_without_a_screen(devices, monkeypatch):
    """A job whose standard output is closed would end in a traceback."""
    monkeypatch.setattr(sys, "stdout", None)
    assert devices("plan", "spec.yaml")[0] == 0


def test_tenants_by_hand(devices, tmp_path):
    """An administrator could not protect an instance from the next apply."""
    devices("apply", "spec.yaml")
    assert devices("tenants", "claim", "0", "3g.40gb@4", "alice")[0] == 0
    assert "3g.40gb@4  alice" in devices("tenants")[1]
    (tmp_path / "empty.yaml").write_text("version: 1\ngpus: [{gpu: 0, instances: []}]")
    refused(devices("apply", "empty.yaml"), "tenant alice")
    assert devices("apply", "empty.yaml", "--tenant", "alice")[0] == 0
    refused(devices("tenants", "claim", "0"), "name GPU, instance and tenant")
    refused(devices("tenants", "release", "5", "3g.40gb@4", "alice"), "there is no GPU 5")


BAD = {
    "version: 3\ngpus: []": "version 3 is unknown",
    "version: 1\ngpus: [{gpu: 9, instances: []}]": "there is no GPU 9",
    "version: 1\ngpus: [{gpu: 0, instances: [7g.80gb, 1g.10gb]}]": "do not fit together",
    "version: 1\ngpus: [{gpu: 0, mig: false}]": "--mig-mode",
    '{"kind": "rltune device plan", "version": 9}': "version 9 is unknown; this release reads version: 1",
    '{"kind": "rltune device plan", "version": 1, "gpus": [{}]}': "is no whole plan",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_one_line_and_status_2(devices, tmp_path, text):
    """A script could not tell a slip from a failure, nor a person what to mend."""
    (tmp_path / "bad.yaml").write_text(text)
    refused(devices("apply", "bad.yaml"), BAD[text])
    assert devices("history")[1] == "Nothing was applied yet.\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["aply"], "invalid choice: 'aply'"),
        ([], "required: COMMAND"),
        (["plan"], "required: FILE"),
        (["plan", "none.yaml"], "cannot be read"),
        (["plan", "spec.yaml", "--wait", "-1"], "--wait -1"),
        (["plan", "spec.yaml", "--device", "simulated:k80"], "known are A30"),
        (["plan", "spec.yaml", "--out", "/nowhere/plan.json"], "cannot be written"),
        (["show", "--call-timeout", "0"], "--call-timeout"),
        (["history", "--most", "-1"], "--most -1: a number from 1"),
        (["history", "--most", "0"], "--most 0: a number from 1"),
        (["apply", "spec.yaml", "--locks", "/nowhere/else"], "the lock cannot be opened"),
    ],
)
def test_bad_options_are_one_line_and_status_2(devices, words, says, monkeypatch):
    """A slip on the command line would end in a traceback or a page of usage."""
    if os.geteuid() == 0 and "--locks" in words:
        words = [*words[:-1], "/proc/locks/x"]
    code, _, errors = _plain(devices, words)
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1 and says in errors


def _plain(devices, words):
    return devices(*words) if words and words[0] in COMMANDS else devices(*(words or ["--pace=0"]))


def test_a_second_apply_at_the_same_time_is_refused(devices, tmp_path):
    """Two applies would plan on states that the other changes."""
    gpu = json.loads(devices("plan", "spec.yaml", "--json")[1])["gpus"][0]["uuid"]
    with locked(tmp_path / f"state/rltune-{gpu}.lock"):
        refused(devices("apply", "spec.yaml"), "another adapter")


def command(*words, **env):
    """A process of its own: ``python -m rltune.devices``."""
    return subprocess.run(
        [sys.executable, "-m", "rltune.devices", *words],
        capture_output=True,
        text=True,
        env=os.environ | env,
        timeout=PATIENCE_S,
    )


def test_a_machine_without_a_driver_is_told(tmp_path):
    """The first thing that a newcomer on a laptop sees would be a traceback."""
    done = command("show", RLTUNE_STATE=str(tmp_path), RLTUNE_DEVICE="nvml", LD_LIBRARY_PATH=str(tmp_path))
    if done.returncode == 0:
        pytest.skip("this machine has an NVIDIA driver")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no NVIDIA driver is installed" in done.stderr and "--device simulated:a100-80gb" in done.stderr


def test_the_real_command_on_a_whole_machine(fake_nvml, tmp_path):
    """What works in a test's process would not work from the shell."""
    nvml = fake_nvml(["A100-80GB"] * 8)
    env = {"RLTUNE_STATE": str(tmp_path), "RLTUNE_DEVICE": "nvml"} | nvml.env
    spec = tmp_path / "spec.yaml"
    spec.write_text("version: 1\ngpus: [{gpu: all, instances: [4g.40gb, 3g.40gb]}]\n")
    done = command("apply", str(spec), "--locks", str(tmp_path / "locks"), **env)
    assert done.returncode == 0, done.stderr
    assert all(len(nvml.instances(gpu)) == 2 for gpu in range(8))
    shown = json.loads(command("show", "--json", **env).stdout)
    assert len(shown["gpus"]) == 8


def test_a_killed_apply_is_settled_by_the_next(fake_nvml, tmp_path):
    """After a kill the next command would work on half a partition without a word."""
    nvml = fake_nvml(["A30"])
    env = {"RLTUNE_STATE": str(tmp_path), "RLTUNE_DEVICE": "nvml"} | nvml.env
    spec, lock = tmp_path / "spec.yaml", ["--locks", str(tmp_path / "locks")]
    spec.write_text("version: 1\ngpus: [{gpu: 0, instances: [2g.12gb, 1g.6gb, 1g.6gb]}]\n")
    nvml.set_fault("kill_after", 2, call="nvmlDeviceCreateGpuInstanceWithPlacement")
    assert command("apply", str(spec), *lock, **env).returncode == -9
    assert len(nvml.instances(0)) == 2
    planned = command("plan", str(spec), *lock, **env)
    assert planned.returncode == 2 and "was cut short" in planned.stderr
    done = command("apply", str(spec), *lock, **env)
    assert done.returncode == 0 and "exactly that before it" in done.stderr
    assert len(nvml.instances(0)) == 3


def test_a_failed_apply_is_status_3_and_undone(fake_nvml, tmp_path):
    """A script would take a failure for a refusal, or for a success."""
    nvml = fake_nvml(["A30"])
    env = {"RLTUNE_STATE": str(tmp_path), "RLTUNE_DEVICE": "nvml"} | nvml.env
    spec = tmp_path / "spec.yaml"
    spec.write_text("version: 1\ngpus: [{gpu: 0, instances: [2g.12gb, 1g.6gb, 1g.6gb]}]\n")
    nvml.set_fault("error", 2, code=999, call="nvmlDeviceCreateGpuInstanceWithPlacement")
    done = command("apply", str(spec), "--locks", str(tmp_path / "locks"), **env)
    assert done.returncode == 3 and "everything is as it was before" in done.stderr and done.stderr.count("\n") == 1
    assert nvml.instances(0) == set()


def test_a_lost_terminal_is_undone(fake_nvml, tmp_path):
    """A dropped ssh connection would leave half a partition."""
    nvml = fake_nvml(["A30"])
    env = {"RLTUNE_STATE": str(tmp_path), "RLTUNE_DEVICE": "nvml"} | nvml.env
    spec = tmp_path / "spec.yaml"
    spec.write_text("version: 1\ngpus: [{gpu: 0, instances: [2g.12gb, 1g.6gb]}]\n")
    nvml.set_fault("delay", 2, delay_ms=60_000, call="nvmlDeviceCreateGpuInstanceWithPlacement")
    words = [sys.executable, "-m", "rltune.devices", "apply", str(spec), "--locks", str(tmp_path / "locks")]
    with subprocess.Popen(
        words,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup, as tests may run, it would be ignored from the start, which is respected.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as job:
        while not nvml.instances(0):
            time.sleep(0.01)
        job.send_signal(signal.SIGHUP)
        errors = job.communicate(timeout=PATIENCE_S)[1]
    assert job.returncode == 129 and "everything is as it was before" in errors
    assert nvml.instances(0) == set()


def test_a_machine_that_does_not_open_is_given_up(tmp_path):
    """The first call of a broken driver would hang for ever."""
    state = tmp_path / "simulated-a30.json"
    with locked(tmp_path / f"{state.name}.lock"):
        done = command("show", "--call-timeout", "0.5", RLTUNE_STATE=str(tmp_path), RLTUNE_DEVICE="simulated:a30")
    assert done.returncode == 4 and "has not answered" in done.stderr


def test_a_driver_that_hangs_is_given_up(fake_nvml, tmp_path):
    """A driver that does not answer would hang the command for ever, Ctrl-C or not."""
    nvml = fake_nvml(["A30"])
    env = {"RLTUNE_STATE": str(tmp_path), "RLTUNE_DEVICE": "nvml"} | nvml.env
    spec, lock = tmp_path / "spec.yaml", ["--locks", str(tmp_path / "locks")]
    spec.write_text("version: 1\ngpus: [{gpu: 0, instances: [2g.12gb, 1g.6gb]}]\n")
    nvml.set_fault("delay", 2, delay_ms=600_000, call="nvmlDeviceCreateGpuInstanceWithPlacement")
    # It ends long before the driver answers: the command's own limit in `command` would tell.
    done = command("apply", str(spec), *lock, "--call-timeout", "5", **env)
    assert done.returncode == 4
    assert "has not answered nvmlDeviceCreateGpuInstanceWithPlacement for 5 s" in done.stderr
    assert "exactly that before it" in command("recover", *lock, **env).stdout
    assert nvml.instances(0) == set()
