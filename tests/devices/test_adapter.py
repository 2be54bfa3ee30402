"""Plan, apply, verify, recover and tenants, one promise a test."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest
from execution_cases import PATIENCE_S
from trials import Machine

from rltune.devices.adapter import Adapter, RolledBack, Unsettled
from rltune.devices.journal import COMMITTED, ROLLED_BACK, VOID, Journal
from rltune.devices.lock import locked
from rltune.devices.simulated import SimulatedDriver
from rltune.devices.spec import spec_of
from rltune.devices.state import parse_instance, state, whole
from rltune.nouns.errors import InputError


def spec(*gpus, **options):
    """GPU by GPU the instances that it should have."""
    return spec_of(
        {"version": 1, "gpus": [{"gpu": at, "instances": list(names)} | options for at, names in enumerate(gpus)]}
    )


@pytest.fixture
def machine(fake_nvml, tmp_path):
    made = Machine(fake_nvml(["A100-80GB", "A30"]), tmp_path)
    yield made
    made.close()


@pytest.fixture
def simulated(tmp_path):
    return Adapter(SimulatedDriver(["a100-80gb", "a30"], pace=0, scan=False), tmp_path)


def test_only_the_difference_is_changed(machine):
    """A running neighbour would be destroyed and made again for a change that does not concern it."""
    machine.make([["3g.40gb@4", "1g.10gb@0", "1g.10gb@1"]])
    before = machine.nvml.instances(0)
    machine.nvml.clear()
    machine.adapter.apply(machine.adapter.plan(spec(["3g.40gb", "1g.10gb", "2g.20gb"])))
    assert len(before & machine.nvml.instances(0)) == 2
    assert machine.nvml.log().count("nvmlDeviceCreateGpuInstanceWithPlacement") == 1
    assert machine.nvml.log().count("nvmlGpuInstanceDestroy") == 1


def test_what_goes_anywhere_leaves_the_most_room(simulated):
    """One small instance in the wrong place would keep every large one from being created."""
    plan = simulated.plan(spec(["1g.10gb"]))
    assert plan.gpus[0].after.instances == (whole("1g.10gb", 6),)


def test_nothing_to_do_writes_nothing(simulated):
    """Every run of a cron job would add a transaction to the journal."""
    done = simulated.apply(simulated.plan(spec([])))
    assert done.transaction is None and simulated.journal.recent() == []


def test_a_plan_made_on_another_state_is_refused(simulated):
    """Somebody else's instance, created since, would be destroyed by a plan that knew nothing of it."""
    plan = simulated.plan(spec(["7g.80gb"]))
    simulated.apply(simulated.plan(spec(["1g.10gb@0"])))
    with pytest.raises(InputError, match="not the state that the plan was made on; plan anew"):
        simulated.apply(plan)
    assert simulated.verify(spec(["1g.10gb@0"])) == []


def test_an_instance_in_use_is_never_destroyed(machine):
    """A job would lose its GPU under it."""
    machine.make([["3g.40gb@4"]])
    plan = machine.adapter.plan(spec(["7g.80gb"]))
    machine.occupy(0, "3g.40gb@4", 4242)
    with pytest.raises(InputError, match=r"3g.40gb@4 is in use \(pid 4242\) and would have to go"):
        machine.adapter.plan(spec(["7g.80gb"]))
    with pytest.raises(InputError, match="pid 4242"):
        machine.adapter.apply(plan)
    machine.adapter.apply(machine.adapter.plan(spec(["3g.40gb", "1g.10gb"])))
    assert ("3g.40gb", 4, (3,)) in machine.found()[0][0]


def test_a_job_that_starts_in_the_last_moment_keeps_its_instance(machine):
    """Between the last look and the destruction a job may start; the rest would then be half done."""
    machine.make([["3g.40gb@4", "3g.40gb@0"]])
    before = machine.found()
    plan = machine.adapter.plan(spec(["7g.80gb"]))
    machine.nvml.refuse({"nvmlComputeInstanceDestroy": 19})
    with pytest.raises(RolledBack, match=r"IN_USE \(19\).*everything is as it was before"):
        machine.adapter.apply(plan)
    assert machine.found() == before


def test_without_knowing_who_uses_what_nothing_is_destroyed(machine):
    """A driver that does not tell its processes would make every instance look idle."""
    machine.make([["3g.40gb@4"]])
    machine.nvml.refuse({"nvmlDeviceGetComputeRunningProcesses_v3": 3, "nvmlDeviceGetComputeRunningProcesses_v2": 3})
    with pytest.raises(InputError, match=r"NOT_SUPPORTED \(3\)"):
        machine.adapter.plan(spec(["7g.80gb"]))


def test_a_process_of_no_told_instance_keeps_all_of_them(machine):
    """A driver that tells a process but not where it runs would let its instance be destroyed."""
    machine.make([["3g.40gb@4", "3g.40gb@0"]])
    plan = machine.adapter.plan(spec([]))
    machine.nvml.add_process(0, 4242)
    for action in (lambda: machine.adapter.plan(spec([])), lambda: machine.adapter.apply(plan)):
        with pytest.raises(InputError, match="pid 4242 runs on it, and the driver does not tell in which instance"):
            action()
    assert len(machine.found()[0][0]) == 2


def test_a_moment_in_use_is_waited_for(machine):
    """A monitoring agent that holds a handle for a moment would fail the whole change."""
    machine.make([["3g.40gb@4"]])
    for nth in (1, 2, 3):
        machine.nvml.set_fault("error", nth, code=19, call="nvmlGpuInstanceDestroy")
    done = machine.adapter.apply(machine.adapter.plan(spec(["7g.80gb"])))
    assert done.retries == 3 and machine.found()[0][0] == {("7g.80gb", 0, (7,))}


def test_waiting_has_an_end(fake_nvml, tmp_path):
    """An instance that stays in use would keep apply waiting for ever."""
    pauses = []
    machine = Machine(fake_nvml(["A30"]), tmp_path)
    machine.make([["4g.24gb"]])
    machine.adapter._sleep = pauses.append
    machine.nvml.refuse({"nvmlGpuInstanceDestroy": 19})
    plan = machine.adapter.plan(spec(["1g.6gb"]))
    with pytest.raises(RolledBack):
        machine.adapter.apply(plan)
    assert 3 < sum(pauses) <= 5 and pauses == sorted(pauses)
    machine.close()


def test_a_gpu_instance_without_its_compute_instance_is_not_left(machine):
    """The memory of an instance that no job can use would be lost until somebody notices."""
    machine.nvml.refuse({"nvmlGpuInstanceCreateComputeInstance": 23})
    with pytest.raises(RolledBack, match="INSUFFICIENT_RESOURCES"):
        machine.adapter.apply(machine.adapter.plan(spec(["3g.40gb", "3g.40gb"])))
    assert machine.found()[0][0] == set()


def test_a_failure_on_one_gpu_undoes_the_others(machine):
    """Half of a machine would be repartitioned, the other half not."""
    machine.make([["7g.80gb"], ["4g.24gb"]])
    before = machine.found()
    plan = machine.adapter.plan(spec(["3g.40gb"], ["2g.12gb"]))
    machine.nvml.set_fault("error", 2, code=999, call="nvmlDeviceCreateGpuInstanceWithPlacement")
    with pytest.raises(RolledBack, match="UNKNOWN"):
        machine.adapter.apply(plan)
    assert machine.found() == before
    assert [one.outcome for one in machine.adapter.journal.recent(1)] == [ROLLED_BACK]


def test_a_journal_that_fails_in_the_middle_does_not_stop_the_way_back(machine):
    """A disk error would leave half a partition, and a message that nothing was changed."""
    machine.make([["7g.80gb"]])
    before = machine.found()
    plan = machine.adapter.plan(spec(["3g.40gb@0", "3g.40gb@4"]))
    create = machine.driver.create_gpu_instance

    def failing(gpu, profile, start):
        if (profile, start) == ("3g.40gb", 4):
            machine.adapter.journal._db.close()
            raise InputError("the disk has gone")
        return create(gpu, profile, start)

    machine.driver.create_gpu_instance = failing
    with pytest.raises(Unsettled, match="journal"):
        machine.adapter.apply(plan)
    assert machine.found() == before
    machine.begin_anew()
    assert "exactly that before" in machine.adapter.recover()[0]


def test_a_gpu_that_is_lost_is_settled_when_it_is_back(machine):
    """A GPU that falls off the bus in the middle would be forgotten half changed."""
    machine.make([["7g.80gb"]])
    plan = machine.adapter.plan(spec(["3g.40gb@0", "3g.40gb@4"]))
    machine.nvml.set_fault("from_on", 30, code=15)
    with pytest.raises(Unsettled, match="GPU_IS_LOST"):
        machine.adapter.apply(plan)
    machine.nvml.clear()
    with pytest.raises(InputError, match="cut short"):
        machine.adapter.plan(spec([]))
    assert "exactly that before" in machine.adapter.recover()[0]
    assert machine.found()[0][0] == {("7g.80gb", 0, (7,))}


def test_what_cannot_be_undone_is_finished(machine):
    """A job that started in a new instance after a crash would be in the way of every recovery."""
    machine.make([["7g.80gb"]])
    plan = machine.adapter.plan(spec(["3g.40gb@0", "3g.40gb@4"]))
    before = {gpu.uuid: gpu.before for gpu in plan.changes}
    after = {gpu.uuid: gpu.after for gpu in plan.changes}
    machine.adapter.apply(plan)
    number = machine.adapter.journal.begin(before, after, [])
    one = next(one for one in machine.driver.instances(0) if one.start == 4)
    machine.driver.destroy_compute_instance(0, one.id, one.compute_instances[0].id)
    machine.occupy(0, "3g.40gb@0", 77)
    lines = machine.adapter.recover()
    assert "exactly that after" in lines[0] and "could not be undone" in lines[0]
    assert machine.found()[0][0] == {("3g.40gb", 0, (3,)), ("3g.40gb", 4, (3,))}
    assert (
        machine.adapter.journal.recent(1)[0].outcome == COMMITTED and machine.adapter.journal.recent(1)[0].id == number
    )


def test_after_a_reboot_nothing_is_made_again(machine, monkeypatch):
    """Instances do not survive a reboot; a recovery would then create what nobody asked for."""
    machine.make([["7g.80gb"]])
    plan = machine.adapter.plan(spec(["3g.40gb@0"]))
    monkeypatch.setattr("rltune.devices.journal.boot_id", lambda: "an earlier boot")
    machine.adapter.journal.begin({g.uuid: g.before for g in plan.gpus}, {g.uuid: g.after for g in plan.gpus}, [])
    machine.nvml.reset_gpu(0)
    assert "the machine was rebooted since" in machine.adapter.recover()[0]
    assert machine.found()[0][0] == set() and machine.adapter.journal.recent(1)[0].outcome == VOID


def test_somebody_elses_instance_is_left_alone(machine):
    """A recovery would destroy what an administrator made by hand in the meantime."""
    plan = machine.adapter.plan(spec(["3g.40gb@0"]))
    machine.adapter.journal.begin({g.uuid: g.before for g in plan.gpus}, {g.uuid: g.after for g in plan.gpus}, [])
    machine.driver.create_gpu_instance(0, "3g.40gb", 0)
    number = machine.driver.create_gpu_instance(0, "1g.10gb", 6)
    machine.driver.create_compute_instance(0, number, 1)
    machine.adapter.recover()
    assert machine.found()[0][0] == {("1g.10gb", 6, (1,))}


def test_mig_mode_changes_only_when_told(fake_nvml, tmp_path):
    """Turning MIG on resets a GPU: it must never come as a surprise."""
    machine = Machine(fake_nvml(["A100-80GB"], mig=False), tmp_path)
    with pytest.raises(InputError, match="MIG mode is off; write mig: true"):
        machine.adapter.plan(spec(["3g.40gb"]))
    plan = machine.adapter.plan(spec(["3g.40gb", "4g.40gb"], mig=True))
    with pytest.raises(InputError, match="--mig-mode"):
        machine.adapter.apply(plan)
    assert machine.nvml.mode(0) == (False, False)
    machine.adapter.apply(plan, mig_mode=True)
    assert machine.found()[0][0] == {("3g.40gb", 4, (3,)), ("4g.40gb", 0, (4,))}
    off = spec_of({"version": 1, "gpus": [{"gpu": 0, "mig": False}]})
    machine.adapter.apply(machine.adapter.plan(off), mig_mode=True)
    assert machine.nvml.mode(0) == (False, False) and machine.found()[0][0] == set()
    machine.close()


def test_a_needed_reset_is_told_and_the_apply_after_it_goes_on(fake_nvml, tmp_path):
    """A GPU whose MIG mode waits for a reset would look done, or fail for ever."""
    machine = Machine(fake_nvml(["A100-80GB"], mig=False, activation="reset_required"), tmp_path)
    wanted = spec(["7g.80gb"], mig=True)
    done = machine.adapter.apply(machine.adapter.plan(wanted), mig_mode=True)
    assert done.resets == (0,) and machine.nvml.mode(0) == (False, True) and machine.found()[0][0] == set()
    machine.nvml.reset_gpu(0)
    machine.adapter.apply(machine.adapter.plan(wanted), mig_mode=True)
    assert machine.found()[0][0] == {("7g.80gb", 0, (7,))}
    machine.close()


def test_turning_mig_off_after_a_reset_goes_on_as_well(fake_nvml, tmp_path):
    """A GPU that needs a reset could never leave MIG mode: each try would bring its instances back."""
    machine = Machine(fake_nvml(["A100-80GB"], activation="reset_required"), tmp_path)
    machine.make([["3g.40gb@0"]])
    off = spec_of({"version": 1, "gpus": [{"gpu": 0, "mig": False}]})
    assert machine.adapter.apply(machine.adapter.plan(off), mig_mode=True).resets == (0,)
    assert machine.found()[0] == (frozenset(), (True, False))
    machine.nvml.reset_gpu(0)
    assert machine.adapter.verify(off) == []
    machine.close()


def test_a_mode_that_waits_is_not_touched_without_the_flag(fake_nvml, tmp_path):
    """An apply that only wants an instance would take back somebody's decision to turn MIG off."""
    machine = Machine(fake_nvml(["A100-80GB"], activation="reset_required"), tmp_path)
    machine.driver.set_mig_mode(0, False)
    machine.adapter.apply(machine.adapter.plan(spec(["3g.40gb@0"])))
    assert machine.found()[0] == (frozenset({("3g.40gb", 0, (3,))}), (True, False))
    on = spec(["3g.40gb@0"], mig=True)
    assert machine.adapter.verify(on) == ["GPU 0: enable MIG mode"]
    with pytest.raises(InputError, match="--mig-mode"):
        machine.adapter.apply(machine.adapter.plan(on))
    machine.close()


def test_a_mode_that_cannot_change_now_is_set_back(fake_nvml, tmp_path):
    """The next reset, months later, would turn MIG on under somebody's job."""
    machine = Machine(fake_nvml(["A100-80GB"], mig=False, activation="in_use"), tmp_path)
    plan = machine.adapter.plan(spec(["7g.80gb"], mig=True))
    with pytest.raises((RolledBack, Unsettled), match="IN_USE"):
        machine.adapter.apply(plan, mig_mode=True)
    assert machine.nvml.mode(0) == (False, False)
    machine.close()


def test_no_mode_change_beside_a_process(fake_nvml, tmp_path):
    """A running job would die with the reset."""
    machine = Machine(fake_nvml(["A100-80GB"], mig=False), tmp_path)
    plan = machine.adapter.plan(spec([], mig=True))
    machine.nvml.add_process(0, 4242)
    for action in (
        lambda: machine.adapter.plan(spec([], mig=True)),
        lambda: machine.adapter.apply(plan, mig_mode=True),
    ):
        with pytest.raises(InputError, match="4242"):
            action()
    assert "nvmlDeviceSetMigMode" not in machine.nvml.log()
    machine.close()


def test_without_root_nothing_changes(fake_nvml, tmp_path):
    """A user without the right would get half a change, or a traceback."""
    machine = Machine(fake_nvml(["A100-80GB"], root=False), tmp_path)
    with pytest.raises(RolledBack, match=r"NO_PERMISSION \(4\).*run as root"):
        machine.adapter.apply(machine.adapter.plan(spec(["7g.80gb"])))
    machine.close()


def test_a_held_instance_stays_until_it_is_released(simulated):
    """Another tool's tenant without a process yet would lose its instance."""
    simulated.apply(simulated.plan(spec(["3g.40gb@4"])))
    gpu, held = simulated.driver.gpus()[0].uuid, parse_instance("3g.40gb@4")
    simulated.claim(gpu, held, "alice")
    with pytest.raises(InputError, match="tenant alice"):
        simulated.plan(spec([]))
    with pytest.raises(InputError, match="tenant alice"):
        simulated.reconfigure(gpu, [held], [], tenant="bob")
    simulated.release(gpu, held, "alice")
    simulated.apply(simulated.plan(spec([])))
    with pytest.raises(InputError, match=r"has no instance 3g\.40gb@4"):
        simulated.claim(gpu, held, "alice")
    with pytest.raises(InputError, match="alice does not hold"):
        simulated.release(gpu, held, "alice")


def test_a_claim_lapses_with_its_process(simulated):
    """A crashed job's claim would keep its instance for ever."""
    simulated.apply(simulated.plan(spec(["3g.40gb@4"])))
    gpu, held = simulated.driver.gpus()[0].uuid, parse_instance("3g.40gb@4")
    with subprocess.Popen(["sleep", "60"]) as job:
        simulated.claim(gpu, held, "job", job.pid)
        assert [one.tenant for one in simulated.tenants()] == ["job"]
        job.kill()
    assert simulated.tenants() == []
    with pytest.raises(InputError, match="there is no process"):
        simulated.claim(gpu, held, "job", job.pid)


def test_a_claim_goes_with_its_instance(simulated):
    """Somebody else's later instance in the same place could not be removed by him."""
    simulated.apply(simulated.plan(spec(["3g.40gb@4"])))
    simulated.claim(simulated.driver.gpus()[0].uuid, parse_instance("3g.40gb@4"), "alice")
    simulated.apply(simulated.plan(spec([]), tenant="alice"), tenant="alice")
    assert simulated.tenants() == []


def test_reconfigure_holds_what_it_creates(simulated):
    """Between its creation and its first job a new instance would be fair game."""
    gpu = simulated.driver.gpus()[0].uuid
    simulated.reconfigure(gpu, [], [whole("3g.40gb", 0)], tenant="executor")
    assert [(one.tenant, one.pid) for one in simulated.tenants()] == [("executor", os.getpid())]
    simulated.reconfigure(gpu, [whole("3g.40gb", 0)], [whole("2g.20gb", 4)], tenant="executor")
    assert [one.profile for one in simulated.tenants()] == ["2g.20gb"]
    names = simulated.uuids(gpu)[whole("2g.20gb", 4)]
    assert len(names) == 1 and names[0].startswith("MIG-")


def test_one_adapter_at_a_time(simulated, tmp_path):
    """Two adapters would plan on a state that the other is changing."""
    plan = simulated.plan(spec(["7g.80gb"]))
    with (
        locked(simulated.lock_of(simulated.driver.gpus()[0].uuid)),
        pytest.raises(InputError, match=rf"another adapter \(pid {os.getpid()}\)"),
    ):
        simulated.apply(plan)
    simulated.apply(plan)


def test_different_gpus_may_change_at_once(simulated):
    """An executor's GPUs would wait for each other with every change, and an administrator for a run on another GPU."""
    first, second = (gpu.uuid for gpu in simulated.driver.gpus())
    with locked(simulated.lock_of(first)):
        simulated.reconfigure(second, [], [whole("2g.12gb", 0)])
        with pytest.raises(InputError, match="another adapter"):
            simulated.reconfigure(first, [], [whole("7g.80gb", 0)])


def test_threads_never_wait_for_each_other_for_ever(simulated):
    """Two threads of a service would each hold the GPU that the other needs to settle an old crash."""
    plan = simulated.plan(spec(["7g.80gb"], ["4g.24gb"]))
    simulated.journal.begin({g.uuid: g.before for g in plan.gpus}, {g.uuid: g.after for g in plan.gpus}, [])
    names = [whole("7g.80gb", 0), whole("4g.24gb", 0)]
    threads = [
        threading.Thread(target=simulated.reconfigure, args=(gpu.uuid, [], [one]), daemon=True)
        for gpu, one in zip(plan.gpus, names, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert [simulated.states()[gpu.uuid].instances for gpu in plan.gpus] == [(one,) for one in names]


def test_one_lost_gpu_does_not_stop_the_others(machine):
    """A single dead GPU would keep all others of its machine from being used."""
    plan = machine.adapter.plan(spec(["7g.80gb"]))
    machine.adapter.journal.begin({g.uuid: g.before for g in plan.gpus}, {g.uuid: g.after for g in plan.gpus}, [])
    machine.nvml.lose(0)
    other = spec_of({"version": 1, "gpus": [{"gpu": 1, "instances": ["4g.24gb"]}]})
    assert machine.adapter.recover(other.by_gpu(machine.driver.gpus())) == []
    machine.adapter.apply(machine.adapter.plan(other))
    assert machine.found()[1][0] == {("4g.24gb", 0, (4,))}
    with pytest.raises(Unsettled):
        machine.adapter.recover()


def test_what_is_under_way_elsewhere_is_not_settled(simulated):
    """An adapter would undo what another one is just doing on another GPU."""
    plan = simulated.plan(spec(["7g.80gb"], ["4g.24gb"]))
    first = plan.gpus[0]
    simulated.journal.begin({first.uuid: first.before}, {first.uuid: first.after}, [])
    simulated.reconfigure(plan.gpus[1].uuid, [], [whole("2g.12gb", 0)])
    assert len(simulated.journal.open_ones()) == 1
    with pytest.raises(InputError, match="cut short or is under way"):
        simulated.plan(spec([]))
    assert len(simulated.recover()) == 1 and simulated.journal.open_ones() == []


def test_another_adapter_is_waited_for_if_asked(simulated):
    """Two cron jobs at the same minute: one would fail for nothing."""
    simulated._wait_s = PATIENCE_S
    plan = simulated.plan(spec(["7g.80gb"]))
    entered = threading.Event()

    def hold():
        with locked(simulated.lock_of(simulated.driver.gpus()[0].uuid)):
            entered.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    simulated.apply(plan)
    thread.join()
    assert simulated.verify(spec(["7g.80gb"])) == []


def test_an_interrupt_in_the_middle_is_undone(machine):
    """Ctrl-C would leave half a partition."""
    machine.make([["7g.80gb"]])
    before = machine.found()
    plan = machine.adapter.plan(spec(["1g.10gb"] * 7))
    create = machine.driver.create_gpu_instance

    def interrupted(gpu, profile, start):
        if start == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return create(gpu, profile, start)

    machine.driver.create_gpu_instance = interrupted
    with pytest.raises(RolledBack, match=r"interrupted.*everything is as it was before") as error:
        machine.adapter.apply(plan)
    assert error.value.exit_status == 130 and machine.found() == before


def test_the_journal_is_on_disk_before_anything_is_done(machine):
    """After a power cut nobody would know what had been begun."""
    plan = machine.adapter.plan(spec(["7g.80gb"]))
    seen = []
    create = machine.driver.create_gpu_instance

    def watched(*args):
        other = Journal(machine.store / "devices.sqlite", "nvml")
        seen.append([(one.outcome, other.steps(one.id)) for one in other.open_ones()])
        other.close()
        return create(*args)

    machine.driver.create_gpu_instance = watched
    machine.adapter.apply(plan)
    assert seen == [[("open", [(plan.gpus[0].uuid, "create 7g.80gb@0")])]]


def test_a_full_disk_stops_it_before_anything_is_done(simulated, monkeypatch):
    """Without a journal a crash could not be settled."""
    plan = simulated.plan(spec(["7g.80gb"]))
    simulated.journal._db.execute("PRAGMA query_only=ON")
    with pytest.raises(InputError, match="the journal cannot be used"):
        simulated.apply(plan)
    assert simulated.states()[plan.gpus[0].uuid] == state(True)


def test_a_journal_that_is_removed_is_not_written_on(simulated, tmp_path):
    """Claims would go into a file that no other adapter ever sees."""
    simulated.apply(simulated.plan(spec(["3g.40gb@4"])))
    for file in tmp_path.glob("devices.sqlite*"):
        file.unlink()
    with pytest.raises(InputError, match="removed or replaced"):
        simulated.claim(simulated.driver.gpus()[0].uuid, parse_instance("3g.40gb@4"), "alice")
