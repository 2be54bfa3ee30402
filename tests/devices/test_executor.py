"""Plans followed with real processes on a simulated machine: order, isolation, failures, and what is left."""

import os
import threading

import pytest
from execution_cases import EARLY, execute, instance, machine, sh, two_halves_then_whole
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rltune.devices.driver import Process
from rltune.devices.execution.energy import Sample, Sampling, Span, energy_of, utilization_of
from rltune.devices.execution.executor import Executor, Options
from rltune.devices.execution.measuring import Measured, kinds_of, trials_of
from rltune.devices.execution.outcome import TaskRow
from rltune.devices.execution.processes import Processes, Signals
from rltune.devices.execution.schedule import targets_of, users_of
from rltune.devices.lock import locked
from rltune.devices.state import whole
from rltune.devices.status import INSUFFICIENT_RESOURCES, NO_PERMISSION, DeviceError
from rltune.mig.batch.plan import Left, Plan, Run
from rltune.mig.batch.search import search
from rltune.mig.batch.tasks import tasks_of
from rltune.nouns.errors import InputError
from rltune.nouns.gpus import GPU_TYPES

ENV = "echo $CUDA_VISIBLE_DEVICES $RLTUNE_PROFILE $RLTUNE_COMPUTE_SLICES $RLTUNE_GPU_COMPUTE_SLICES"


def four(script="sleep 0.05"):
    return [sh(f"t{k}", script) for k in range(4)]


def rows(done):
    return {row.task: row for row in done.tasks}


def check_apart(done):
    """No two tasks hold the same memory slice of a GPU at once, nor one that is being reconfigured."""
    spans = [(r.gpu, r.start_slice, r.slices, r.start_s, r.end_s, r.task) for r in done.tasks if r.end_s is not None]
    for i in done.instances:
        for begin, end in ((i.create_s, i.ready_s), (i.destroy_s, i.gone_s)):
            if begin is not None and end is not None:
                spans.append((i.gpu, i.start_slice, i.slices, begin, end, f"{i.profile}@{i.start_slice}"))
    for k, (gpu, low, size, start, end, name) in enumerate(spans):
        for other, below, many, begin, until, what in spans[:k]:
            if gpu == other and low < below + many and below < low + size:
                assert start >= until - 1e-6 or end <= begin + 1e-6, (name, what)


def test_a_plan_is_followed_in_its_order(tmp_path):
    """Every task runs once, in the instance that the plan gives it, and nothing overlaps."""
    adapter = machine(tmp_path)
    done = execute(four(ENV + "; sleep 0.05"), two_halves_then_whole(), adapter, tmp_path)
    assert (done.status, done.exit_status, done.problems) == ("ok", 0, [])
    found = rows(done)
    assert [found[f"t{k}"].profile for k in range(4)] == ["2g.12gb", "2g.12gb", "4g.24gb", "4g.24gb"]
    assert found["t2"].start_s >= max(found["t0"].end_s, found["t1"].end_s)
    assert found["t3"].start_s >= found["t2"].end_s
    check_apart(done)
    for row in done.tasks:
        words = (tmp_path / "logs" / f"{row.task}.log").read_text().split()
        assert words == [row.mig_uuid, row.profile, row.profile[0], "4"]
    assert (found["t0"].planned_end_s, done.planned_makespan_s) == (1.0, 4.0)
    assert done.makespan_s == found["t3"].end_s
    # Also what the plan leaves, and is destroyed at the end.
    assert found["t3"].end_s <= done.instances[-1].destroy_s <= done.instances[-1].gone_s


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.integers(4, 9))
def test_any_searched_plan_is_followed(tmp_path_factory, seed, n):
    """What the search plans for two GPUs runs without overlap, each task once, and the machine is empty afterwards."""
    folder = tmp_path_factory.mktemp("machine")
    one = [0.01 * (1 + (seed * 7 + k * 13) % 9) for k in range(n)]
    batch = tasks_of(
        "a30", {"1g": one, "2g": [s / 1.5 for s in one], "4g": [s / 3 for s in one]}, [f"t{k}" for k in range(n)]
    )
    plan = search(batch, ("A30", "A30"), steps=300, seed=seed).plan
    adapter = machine(folder, ["a30", "a30"], pace=0.02)
    tasks = [sh(f"t{k}", f"sleep {one[k]:.3f}") for k in range(n)]
    done = execute(tasks, plan, adapter, folder)
    assert done.problems == []
    assert [row.outcome for row in done.tasks] == ["ok"] * n
    check_apart(done)
    assert all(not state.instances for state in adapter.states().values())
    assert adapter.tenants() == []


def test_failures_do_not_stop_others(tmp_path):
    """A nonzero exit, a signal and a timeout are told apart; the tasks behind them run all the same."""
    tasks = [
        sh("t0", "exit 3"),
        sh("t1", "trap '' TERM; sleep 60", timeout_s=0.1),
        sh("t2", "kill -9 $$"),
        sh("t3", "true"),
    ]
    done = execute(tasks, two_halves_then_whole(), machine(tmp_path), tmp_path)
    told = [(row.outcome, row.exit_code, row.signal) for row in done.tasks]
    assert told == [("failed", 3, None), ("timed out", None, 9), ("failed", None, 9), ("ok", 0, None)]
    assert (done.status, done.exit_status) == ("failed", 1)


def test_fail_fast_ends_what_runs(tmp_path):
    """With --fail-fast nothing is started after the first failure, and what runs is ended."""
    tasks = [sh("t0", "sleep 0.1; exit 1"), sh("t1", "sleep 60"), sh("t2", "true"), sh("t3", "true")]
    done = execute(tasks, two_halves_then_whole(), machine(tmp_path), tmp_path, Options(fail_fast=True, grace_s=0.2))
    assert [row.outcome for row in done.tasks] == ["failed", "interrupted", "not run", "not run"]
    assert "t0 failed" in rows(done)["t2"].reason


def test_a_daemon_does_not_hold_its_instance(tmp_path):
    """A process that a task leaves behind would keep the instance in use; it is ended, and the plan goes on."""
    tasks = four("true")
    tasks[0] = sh("t0", "setsid sleep 60 & exit 0")
    done = execute(tasks, two_halves_then_whole(), machine(tmp_path), tmp_path)
    assert [row.outcome for row in done.tasks] == ["ok"] * 4
    assert rows(done)["t0"].left_behind == 1
    assert done.problems == []


def test_a_refused_creation_costs_its_own_tasks_only(tmp_path, monkeypatch):
    """If the driver refuses one instance, its tasks are told not run and why; all others run; status 3."""
    adapter = machine(tmp_path)
    real = adapter.reconfigure

    def refusing(gpu, destroy, create, tenant=None):
        if whole("2g.12gb", 2) in create:
            raise DeviceError(INSUFFICIENT_RESOURCES, "nvmlDeviceCreateGpuInstanceWithPlacement", "GPU 0")
        real(gpu, destroy, create, tenant)

    monkeypatch.setattr(adapter, "reconfigure", refusing)
    done = execute(four(), two_halves_then_whole(), adapter, tmp_path)
    assert [row.outcome for row in done.tasks] == ["ok", "not run", "ok", "ok"]
    assert "INSUFFICIENT_RESOURCES" in rows(done)["t1"].reason
    assert done.exit_status == 3 and "create 2g.12gb@2" in done.problems[0]


def test_a_driver_that_hangs_keeps_nobody_else(tmp_path, monkeypatch):
    """If one GPU's driver never answers, the other GPU's tasks run, and the command ends and says why."""
    adapter, never = machine(tmp_path, ["a30", "a30"]), threading.Event()
    first, real = adapter.driver.gpus()[0].uuid, adapter.reconfigure

    def hanging(gpu, destroy, create, tenant=None):
        if gpu == first:
            never.wait(30)
        else:
            real(gpu, destroy, create, tenant)

    monkeypatch.setattr(adapter, "reconfigure", hanging)
    instances = (instance("1g", 0, 0.0), instance("1g", 0, 0.0, gpu=1))
    plan = Plan(("A30", "A30"), instances, (Run(0, 0, 0.2, 1.0), Run(1, 1, 0.2, 1.0)), "by hand")
    options = Options(sample_s=0.05, grace_s=0.2, change_s=0.5)
    done = execute([sh("t0", "true"), sh("t1", "true")], plan, adapter, tmp_path, options)
    never.set()
    assert [row.outcome for row in done.tasks] == ["not run", "ok"]
    assert "the driver may hang" in rows(done)["t0"].reason
    assert done.exit_status == 3 and done.hangs


def test_instances_are_held_while_tasks_run(tmp_path):
    """Nobody else's reconfiguration takes an instance away from under a task."""
    adapter, refused = machine(tmp_path), []
    gpu = adapter.driver.gpus()[0].uuid

    def on_event(event):
        if event.what == "ready" and event.subject == "4g.24gb@0":
            with pytest.raises(InputError) as error:
                adapter.reconfigure(gpu, [whole("4g.24gb", 0)], [])
            refused.append(str(error.value))

    done = execute(four(), two_halves_then_whole(), adapter, tmp_path, on_event=on_event)
    assert done.status == "ok"
    assert refused and f"rltune-run-{os.getpid()}" in refused[0]


def test_foreign_instances_are_refused(tmp_path):
    """A GPU that holds something the plan does not know is not touched, and nothing is started."""
    adapter = machine(tmp_path)
    gpu = adapter.driver.gpus()[0].uuid
    adapter.reconfigure(gpu, [], [whole("1g.6gb", 3)])
    with pytest.raises(InputError, match=r"GPU 0 holds 1g\.6gb@3, the plan begins from none"):
        execute(four(), two_halves_then_whole(), adapter, tmp_path)
    assert not (tmp_path / "logs").exists()
    assert adapter.states()[gpu].instances == (whole("1g.6gb", 3),)


def taking_over():
    """The half that is there runs task 0, goes, and all of the GPU runs the others."""
    there = instance("2g", 0, None, 1.0)
    runs = [Run(0, 0, 0.0, 1.0), *(Run(k, 1, 1.3 + k, 2.3 + k) for k in (1, 2, 3))]
    return Plan(("A30",), (there, instance("4g", 0, 1.1)), tuple(runs), "by hand", (Left((instance("2g", 0, None),)),))


def test_the_partition_that_was_there_comes_back(tmp_path):
    """Instances that the plan takes over and destroys are there again at the end, and held by nobody."""
    adapter = machine(tmp_path)
    gpu = adapter.driver.gpus()[0].uuid
    adapter.reconfigure(gpu, [], [whole("2g.12gb", 0)])
    done = execute(four(), taking_over(), adapter, tmp_path)
    assert (done.status, done.problems) == ("ok", [])
    assert adapter.states()[gpu].instances == (whole("2g.12gb", 0),)
    assert adapter.tenants() == []


def test_instances_in_use_are_not_taken_over(tmp_path):
    """What another tenant holds is refused before anything starts."""
    adapter = machine(tmp_path)
    gpu = adapter.driver.gpus()[0].uuid
    adapter.reconfigure(gpu, [], [whole("2g.12gb", 0)], tenant="alice")
    with pytest.raises(InputError, match=r"2g\.12gb@0 is in use \(tenant alice\)"):
        execute(four(), taking_over(), adapter, tmp_path)
    assert not (tmp_path / "logs").exists()


def test_keep_leaves_the_last_partition(tmp_path):
    """With keep the instances of the plan stay for the next one, held by nobody."""
    adapter = machine(tmp_path)
    done = execute(four(), two_halves_then_whole(), adapter, tmp_path, Options(keep=True))
    assert done.status == "ok"
    (state,) = adapter.states().values()
    assert state.instances == (whole("4g.24gb", 0),)
    assert done.instances[-1].gone_s is None
    assert adapter.tenants() == []


def test_a_plan_for_other_gpus(tmp_path):
    """A plan for a model that is not here, or has MIG off, is refused with what is here."""
    with pytest.raises(InputError, match=r"needs 1 x A30 with MIG on; here are GPU 0 .*A100-80GB"):
        execute(four(), two_halves_then_whole(), machine(tmp_path, ["a100-80gb"]), tmp_path)
    with pytest.raises(InputError, match="MIG off"):
        execute(four(), two_halves_then_whole(), machine(tmp_path / "b", mig=False), tmp_path)


def test_whole_gpus_take_the_longest_first(tmp_path):
    """Without MIG each GPU runs one task at a time, the longest first, and all GPUs are used."""
    adapter = machine(tmp_path, ["a30", "a30"], mig=False)
    tasks = [sh(f"t{k}", ENV + f"; sleep {0.05 * (k + 1)}") for k in range(4)]
    tasks = [t.model_copy(update={"seconds": {"": {"whole": 0.05 * (k + 1)}}}) for k, t in enumerate(tasks)]
    done = execute(tasks, None, adapter, tmp_path)
    found = rows(done)
    assert [row.outcome for row in done.tasks] == ["ok"] * 4
    assert {found["t3"].gpu, found["t2"].gpu} == {0, 1}
    assert max(found["t3"].start_s, found["t2"].start_s) < min(found["t1"].start_s, found["t0"].start_s)
    words = (tmp_path / "logs" / "t3.log").read_text().split()
    assert words == [adapter.driver.gpus()[found["t3"].gpu].uuid, "whole", "4", "4"]
    check_apart(done)


def test_energy_is_shared_among_those_who_ran(tmp_path):
    """Joules of tasks add up to no more than the GPU used, and one that had it alone is charged all of its time."""
    adapter = machine(tmp_path)
    before = adapter.driver.telemetry(0).energy_mj
    done = execute(four("sleep 0.3"), two_halves_then_whole(), adapter, tmp_path, EARLY)
    used = (adapter.driver.telemetry(0).energy_mj - before) / 1e3
    joules = [row.energy_j for row in done.tasks]
    assert all(j is not None and j > 0 for j in joules)
    assert 0.3 * 4 * GPU_TYPES["A30"].idle_w / 2 < sum(joules) <= used
    alone = rows(done)["t2"]
    assert GPU_TYPES["A30"].idle_w < alone.energy_j / alone.seconds <= GPU_TYPES["A30"].busy_w * 1.01
    assert joules[2] / alone.seconds > 1.3 * joules[0] / done.tasks[0].seconds
    assert alone.utilization_percent > 50


def test_a_sample_that_fails_is_told_once():
    """A surprise from the driver would end the sampling silently, and with it the energy of every later task."""

    class Broken:
        calls = 0

        def telemetry(self, gpu):
            self.calls += 1
            raise RuntimeError("no\nsuch thing")

    broken = Broken()
    with Sampling(broken, [0], 0.001) as sampling:
        while broken.calls < 3:
            pass
    assert sampling.notes == ["a sample is missing: RuntimeError: no such thing"]
    assert len(sampling.samples[0]) == broken.calls and not sampling.hangs


def test_energy_by_hand():
    """100 W for 2 s, then 200 W for 2 s: shared by slices while two ran, whole to the one that ran alone."""
    samples = [Sample(0.0, 0.0, None, 50), Sample(2.0, 200e3, None, 100), Sample(4.0, 600e3, None, None)]
    alone, shared = energy_of(samples, [Span(0.0, 3.0, 1), Span(2.0, 3.0, 3)])
    assert (alone, shared) == pytest.approx((200 + 50, 150))
    assert utilization_of(samples, 1.0, 4.0) == 100
    # By power where there is no counter; unknown where the driver was silent, or nobody looked.
    assert energy_of([Sample(0, None, 100, None), Sample(2, None, 300, None)], [Span(0, 2, 1)]) == [400]
    silent = [Sample(0, None, 100, None), Sample(1, None, None, None), Sample(2, None, 100, None)]
    assert energy_of(silent, [Span(0, 2, 1)]) == [None]
    assert energy_of(samples, [Span(3.0, 5.0, 1)]) == [None]
    assert energy_of([], [Span(0.0, 1.0, 1)]) == [None]


def test_a_program_that_vanished_fails_alone(tmp_path):
    """A program that cannot be started any more is a failed task with its reason, not the end of the run."""
    tasks = four("true")
    tasks[1] = type(tasks[1])(name="t1", command=("/nowhere/program",))
    done = execute(tasks, two_halves_then_whole(), machine(tmp_path), tmp_path)
    assert [row.outcome for row in done.tasks] == ["ok", "failed", "ok", "ok"]
    assert "could not be started" in rows(done)["t1"].reason


def trials(tasks, adapter, folder, kinds=None, repeats=1):
    """Profile the tasks on GPU 0; what was run, and what came of it."""
    (target,) = targets_of(adapter.driver, [0])
    state, used = adapter.states()[target.uuid], users_of(adapter, target)
    found = trials_of(tasks, target, kinds_of(target, kinds), repeats, adapter.driver, state, used)
    with Signals() as signals:
        done = Executor(found.specs, found.schedule, adapter, folder / "logs", signals, EARLY).run()
    return found, done, Measured(tasks, found, done.tasks)


def test_profiling_a_whole_gpu(tmp_path):
    """Where MIG is off only the whole GPU's time is measured; asking for slices is refused with the remedy."""
    adapter = machine(tmp_path, mig=False)
    _, done, measured = trials([sh("a", "sleep 0.05")], adapter, tmp_path, repeats=2)
    assert list(measured.seconds) == [("a", "whole")] and len(measured.seconds["a", "whole"]) == 2
    assert done.tasks[0].profile == "whole"
    with pytest.raises(InputError, match="GPU 0 has MIG off"):
        trials([sh("a", "true")], adapter, tmp_path, kinds=["1g"])


def test_profiling_beside_what_is_there(tmp_path):
    """Instances of others stay while a GPU is profiled; a profile without room beside them is refused at once."""
    adapter = machine(tmp_path)
    gpu = adapter.driver.gpus()[0].uuid
    adapter.reconfigure(gpu, [], [whole("2g.12gb", 0)], tenant="alice")
    _, done, measured = trials([sh("a", "true")], adapter, tmp_path, kinds=["1g", "2g"])
    assert (done.status, [row.start_slice for row in done.tasks]) == ("ok", [2, 2])
    assert sorted(measured.seconds) == [("a", "1g"), ("a", "2g")]
    assert adapter.states()[gpu].instances == (whole("2g.12gb", 0),)
    with pytest.raises(InputError, match=r"no room for 4g\.24gb beside 2g\.12gb@0"):
        trials([sh("a", "true")], adapter, tmp_path, kinds=["4g"])


def test_a_timeout_is_no_misfit(tmp_path):
    """A task that was cut short by its timeout has no known time; only one that fails counts as not fitting."""
    tasks = [sh("slow", "sleep 60", timeout_s=0.1), sh("bad", "exit 1"), sh("good", "true")]
    _, done, measured = trials(tasks, machine(tmp_path), tmp_path, kinds=["1g"], repeats=2)
    assert [name for name, _, _ in measured.unfit] == ["bad"]
    assert [name for name, _, _ in measured.unknown] == ["slow"]
    assert [row.outcome for row in done.tasks] == ["timed out", "not run", "failed", "not run", "ok", "ok"]


def test_fewer_repeats_than_asked_for_are_no_misfit(tmp_path):
    """A task whose second repeat never came would be called too large for the profile, and planned elsewhere for ever."""
    adapter = machine(tmp_path)
    (target,) = targets_of(adapter.driver, [0])
    tasks = [sh(name, "true") for name in ("cut", "bad", "good")]
    found = trials_of(tasks, target, ["1g"], 2, adapter.driver, adapter.states()[target.uuid])
    told = [("ok", 1.0), ("not run", None), ("ok", 1.0), ("failed", 0.5), ("ok", 1.0), ("ok", 3.0)]
    rows = [TaskRow("x", what, "why" * (what != "ok"), seconds=seconds) for what, seconds in told]
    measured = Measured(tasks, found, rows)
    assert [(name, row.reason) for name, _, row in measured.unknown] == [("cut", "why")]
    assert [name for name, _, _ in measured.unfit] == ["bad"]
    assert measured.seconds == {("good", "1g"): [1.0, 3.0]}


def test_whole_gpus_are_nobody_else_s(tmp_path, monkeypatch):
    """Two runs on one whole GPU would measure each other, or run out of memory."""
    adapter = machine(tmp_path, mig=False)
    gpu = adapter.driver.gpus()[0].uuid
    with locked(adapter.lock_of(f"whole-{gpu}")), pytest.raises(InputError, match="GPU 0: another run has all of it"):
        execute(four("true"), None, adapter, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(adapter.driver, "processes", lambda gpu: (Process(7, None, None, None),))
        with pytest.raises(InputError, match="GPU 0 is in use by process 7"):
            execute(four("true"), None, adapter, tmp_path)
    assert not (tmp_path / "logs").exists()

    def silent(gpu):
        raise DeviceError(NO_PERMISSION, "nvmlDeviceGetComputeRunningProcesses_v3", "GPU 0")

    # The lock was let go of; who uses a GPU cannot always be told.
    real = adapter.driver.processes
    asked = []
    monkeypatch.setattr(
        adapter.driver, "processes", lambda gpu: real(gpu) if asked else asked.append(gpu) or silent(gpu)
    )
    done = execute(four("true"), None, adapter, tmp_path)
    assert done.status == "ok" and "whether somebody else uses it is not known" in done.notes[0]


def test_the_gpu_is_brought_back_whatever_fails(tmp_path, monkeypatch):
    """A process that cannot be ended would leave the plan's instances, held by nobody who lives."""
    adapter = machine(tmp_path)

    def refused(self):
        raise PermissionError("not yours")

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(Processes, "kill_all", refused)
        execute(four("true"), two_halves_then_whole(), adapter, tmp_path)
    assert all(not state.instances for state in adapter.states().values())
