"""A node carries orders out once, on its GPUs and as processes, and reports what came of them."""

from __future__ import annotations

import json
import os
import signal
import threading

import pytest
from node_cases import SLEEP, SMALL, Heard, begin, local_node, machine, output, python, wait_until

from rltune.devices.adapter import Adapter
from rltune.devices.execution.keeper import children_of, process_start
from rltune.devices.simulated import SimulatedDriver
from rltune.devices.state import whole
from rltune.devices.status import UNKNOWN, DeviceError
from rltune.nouns.errors import InputError
from rltune.service.nodes.local import LocalNode
from rltune.service.nodes.run import COMING, STARTING
from rltune.service.orders import Cut, Held, Stop, Suspend

MIDDLE = ("2g.20gb", 2)


@pytest.fixture
def node(tmp_path):
    made = local_node(tmp_path)
    yield made
    wait_until(lambda: not any(run.state in (COMING, STARTING) for run in list(made._runs.values())))
    runs = made.inventory().runs
    made.carry_out([Stop(run) for run, state in runs.items() if state in ("began", "suspended")])
    wait_until(lambda: not {"began", "suspended"} & set(made.inventory().runs.values()))
    made.close()


def leader_of(node, run) -> int:
    return json.loads((node._folder / run / "begun.json").read_text())["leader"][0]


def test_a_job_gets_its_slice_its_environment_and_its_end_is_told(node):
    """A job would run on another slice than it was given, or nobody learn how it ended."""
    heard = Heard(node)
    code = "import os; print({k: v for k, v in os.environ.items()}); raise SystemExit(7)"
    command = begin(argv=python(code), environment={"MINE": "1", "RLTUNE_RANK": "9"}, world=2, peers=("n1", "n2"))
    node.carry_out([command])
    ended = heard.wait("ended", "r1")
    began = heard.wait("began", "r1")
    assert ended.code == 7 and ended.at_s >= began.at_s
    assert heard.of("cut", "r1")[0].gpu == 0
    seen = eval(output(node, "r1"))
    assert seen["CUDA_VISIBLE_DEVICES"] == began.message and began.message.startswith("MIG-")
    wanted = {
        "RLTUNE_JOB": "job-of-r1", "RLTUNE_RUN": "r1", "RLTUNE_RANK": "0", "RLTUNE_WORLD": "2", "RLTUNE_PEERS": "n1,n2", "MINE": "1",
        "RLTUNE_PROFILE": "1g.10gb", "RLTUNE_COMPUTE_SLICES": "1", "RLTUNE_GPU_COMPUTE_SLICES": "7",
    }  # fmt: skip
    assert wanted.items() <= seen.items()
    assert "RLTUNE_RESUME" not in seen and "PYTHONPATH" not in seen
    found = node.inventory()
    assert found.runs == {"r1": "ended"} and found.codes == {"r1": 7}
    assert found.gpus[0].instances == (SMALL,) and found.gpus[0].kind == "A100-80GB"


def test_an_order_given_twice_is_carried_out_once(node):
    """After a crash of the service a job would run twice, or its repeated order be taken for an error."""
    heard = Heard(node)
    order = begin(argv=python("print('once', flush=True); import time; time.sleep(600)"))
    node.carry_out([order, order])
    heard.wait("began", "r1")
    node.carry_out([order])
    heard.wait("began", "r1", 2)
    wait_until(lambda: "once" in output(node, "r1"))
    node.carry_out([Stop("r1"), Stop("r1")])
    heard.wait("ended", "r1")
    node.carry_out([Stop("r1"), order])
    assert heard.wait("ended", "r1", 3).code == -signal.SIGTERM
    assert output(node, "r1").count("once") == 1
    node.carry_out([Cut(0, True, (SMALL,)), Cut(0, True, (SMALL,))])
    heard.wait("cut", "", 2)


def test_a_lease_runs_nothing_and_holds_its_slice(node):
    """A tenant's slice would be taken away, or its release never be told."""
    heard = Heard(node)
    node.carry_out([begin("lease", argv=())])
    assert heard.wait("began", "lease").message.startswith("MIG-")
    node.carry_out([Cut(0, True, ())])
    assert "run lease holds" in heard.wait("not_cut").message
    node.carry_out([Stop("lease"), Cut(0, True, ())])
    assert heard.wait("ended", "lease").code == 0
    heard.wait("cut", "")
    assert node.inventory().gpus[0].instances == ()


def test_what_stays_of_a_cut_is_not_touched(node, tmp_path):
    """A running neighbour would lose its instance to a change beside it."""
    heard = Heard(node)
    node.carry_out([begin()])
    uuid = heard.wait("began", "r1").message
    node.carry_out([Cut(0, True, (SMALL, MIDDLE))])
    heard.wait("cut", "")
    node.carry_out([Cut(0, True, (MIDDLE,))])
    assert "run r1 holds" in heard.wait("not_cut", "").message
    adapter = node.device.adapter
    gpu = adapter.driver.gpus()[0].uuid
    assert adapter.uuids(gpu)[whole(*SMALL)] == (uuid,)
    assert node.inventory().runs == {"r1": "began"}


def test_foreign_instances_are_never_touched(tmp_path):
    """An administrator's instance would be destroyed, or given to a job."""
    driver = machine(tmp_path)
    mine = driver.create_gpu_instance(0, "2g.20gb", 2)
    driver.create_compute_instance(0, mine, 2)
    node = local_node(tmp_path, driver)
    heard = Heard(node)
    node.carry_out([Cut(0, True, (SMALL,)), Cut(0, True, (MIDDLE,)), Cut(0, True, (("3g.40gb", 0),)), Cut(0, False)])
    heard.wait("cut")
    refusals = [heard.wait("not_cut", "", count).message for count in (1, 2, 3)]
    assert all("2g.20gb@2" in one and "left alone" in one for one in refusals)
    node.carry_out([begin("r2", held=(Held(0, MIDDLE),), cuts=())])
    assert "not the service's" in heard.wait("refused", "r2").message
    found = node.inventory().gpus[0]
    assert (found.instances, found.foreign) == ((SMALL,), (MIDDLE,))
    node.close()


class Failing(SimulatedDriver):
    """Fails creations while ``fails``, after their effect or before; blocks changes of a GPU while its ``gate`` is closed."""

    fails = 0
    late = False
    gates: dict

    def create_gpu_instance(self, gpu, profile, start):
        gate = getattr(self, "gates", {}).get(gpu)
        if gate is not None:
            gate.wait()
        if self.fails:
            self.fails -= 1
            if self.late:
                super().create_gpu_instance(gpu, profile, start)
            raise DeviceError(UNKNOWN, "nvmlInjected", f"GPU {gpu}")
        return super().create_gpu_instance(gpu, profile, start)


@pytest.mark.parametrize("late", [False, True])
def test_a_device_that_fails_costs_that_run_only(tmp_path, late):
    """One error of the driver would end the node, or leave half a partition behind."""
    driver = machine(tmp_path, cls=Failing)
    driver.fails, driver.late = 1, late
    node = local_node(tmp_path, driver)
    heard = Heard(node)
    node.carry_out([begin("a"), begin("b", held=(Held(1, SMALL),), cuts=(Cut(1, True, (SMALL,)),), argv=("true",))])
    failed = {heard.wait("refused").run}
    assert "nvmlInjected" in heard.wait("not_cut").message
    (other,) = {"a", "b"} - failed
    heard.wait("began", other)
    node.carry_out([begin("c", held=(Held(0, SMALL),), cuts=(Cut(0, True, (SMALL,)),), argv=("true",))])
    heard.wait("refused" if other == "a" else "ended", "c")
    node.carry_out([Stop("a")])
    node.close()


def test_a_slow_gpu_does_not_keep_others_waiting(tmp_path):
    """A driver that hangs on one GPU would hold up every job of the machine, or the service itself."""
    driver = machine(tmp_path, cls=Failing)
    driver.gates = {0: threading.Event()}
    node = local_node(tmp_path, driver)
    heard = Heard(node)
    node.carry_out(
        [
            begin("slow", argv=("true",)),
            begin("fast", argv=("true",), held=(Held(1, SMALL),), cuts=(Cut(1, True, (SMALL,)),)),
        ]
    )
    heard.wait("ended", "fast")
    assert not heard.of("began", "slow")
    driver.gates[0].set()
    heard.wait("ended", "slow")
    node.close()


def test_mig_mode_changes_with_a_cut_and_not_under_a_run(tmp_path):
    """A job on a whole GPU would lose it to MIG, or a GPU never come back from MIG."""
    node = local_node(tmp_path, machine(tmp_path, mig=False))
    heard = Heard(node)
    node.carry_out([begin("whole", held=(Held(0),), cuts=()), Cut(0, True, (SMALL,))])
    assert heard.wait("began", "whole").message.startswith("GPU-")
    assert "run whole holds" in heard.wait("not_cut").message
    node.carry_out([Stop("whole"), begin("slice", argv=("true",))])
    heard.wait("ended", "slice")
    assert node.inventory().gpus[0].mig
    node.carry_out([begin("again", argv=("true",), held=(Held(0),), cuts=(Cut(0, False),))])
    heard.wait("ended", "again")
    assert not node.inventory().gpus[0].mig
    node.carry_out([Cut(0, False, (SMALL,)), Cut(7, True), begin("none", held=(Held(9),), cuts=())])
    heard.wait("not_cut", "", 3)
    told = " ".join(one.message for one in heard.of("not_cut"))
    assert "without MIG" in told and "GPU 7" in told and "GPU 9" in heard.wait("refused", "none").message
    node.close()


def test_a_gang_of_gpus_begins_when_all_are_cut(node):
    """A job on two GPUs would begin with one of them, or see them in another order."""
    heard = Heard(node)
    held = (Held(1, MIDDLE), Held(0, SMALL))
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    node.carry_out(
        [begin("gang", argv=python(code), held=held, cuts=(Cut(0, True, (SMALL,)), Cut(1, True, (MIDDLE,))))]
    )
    told = heard.wait("began", "gang").message
    heard.wait("ended", "gang")
    adapter = node.device.adapter
    gpus = adapter.driver.gpus()
    wanted = [adapter.uuids(gpus[1].uuid)[whole(*MIDDLE)][0], adapter.uuids(gpus[0].uuid)[whole(*SMALL)][0]]
    assert told.split(",") == wanted == output(node, "gang").strip().split(",")


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (begin(argv=("/no/such/program",)), "/no/such/program"),
        (begin(directory="/no/such/folder"), "/no/such/folder"),
        (begin(user="nobody-of-this-name"), "create it there"),
        (begin(user="root"), "do not run as root"),
        (begin(suspend="freeze"), "known are stop and checkpoint"),
        (begin(environment={"A=B": "1"}), "environment"),
        (begin(run="../up"), "a name has"),
        (begin(suspend="stop", resumes="never"), "not stopped here"),
        (begin(cuts=(Cut(0, True, (("9g.90gb", 0),)),)), "9g.90gb"),
        (begin(cuts=()), "cut it first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_begin_is_refused_in_words(node, order, told):
    """A mistake in one job would end the node, or the job seem to run."""
    heard = Heard(node)
    node.carry_out([order])
    assert told in heard.wait("refused", order.run).message
    assert node.inventory().runs == {}
    if "/" not in order.run and order.cuts:
        node.carry_out([begin(order.run, argv=("true",))])
        assert heard.wait("ended", order.run).code == 0


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"argv": ("/no/such/program",)}, 127),
        ({"argv": ("true",), "directory": "/no/such/directory"}, 127),
        ({"argv": ("/etc/passwd",)}, 126),
        ({"argv": ("true",), "user": "nobody-of-this-name"}, 126),
    ],
    ids=["program", "directory", "rights", "user"],
)
def test_what_is_wrong_with_the_job_is_told_as_its_own(node, given, code):
    """The service would take the machine out for a slip in a job."""
    heard = Heard(node)
    node.carry_out([begin("r", **given)])
    assert heard.wait("refused", "r").code == code


def test_a_job_of_an_array_begins(node):
    """No job of an array would begin, and its machines would be taken for broken."""
    heard = Heard(node)
    node.carry_out([begin("job-3[0].1", argv=("true",))])
    assert heard.wait("ended", "job-3[0].1").code == 0


def test_one_that_comes_waits_for_one_that_goes(node):
    """A job would begin on a slice whose last holder still uses it."""
    heard = Heard(node)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    node.carry_out([begin("old", argv=python(stubborn), grace_s=0.5)])
    wait_until(lambda: "deaf" in output(node, "old"))
    node.carry_out(
        [Stop("old"), begin("new", argv=("true",), held=(Held(0, MIDDLE),), cuts=(Cut(0, True, (MIDDLE,)),))]
    )
    heard.wait("ended", "new")
    runs = [one.run for one in heard.all if one.what in ("ended", "began")]
    assert runs == ["old", "old", "new", "new"]
    assert heard.wait("ended", "old").code == -signal.SIGKILL


def test_a_place_that_is_taken_is_refused_and_a_shared_gpu_is_not(tmp_path):
    """Two jobs would get one slice, or a share of a GPU be refused."""
    node = local_node(tmp_path, machine(tmp_path, ["a100-80gb", "a100-80gb"], mig=True))
    heard = Heard(node)
    node.carry_out([begin("a"), begin("b")])
    heard.wait("began", "a")
    assert "run a holds it" in heard.wait("refused", "b").message
    whole_gpu = {"held": (Held(1),), "cuts": (Cut(1, False),)}
    node.carry_out([begin("c", **whole_gpu), begin("d", **whole_gpu)])
    assert heard.wait("began", "c").message == heard.wait("began", "d").message
    node.carry_out([Stop(run) for run in "acd"])
    for run in "acd":
        heard.wait("ended", run)
    node.close()


def test_what_others_run_in_a_slice_keeps_the_next_away(tmp_path, monkeypatch):
    """A tenant's process that outlived its lease would share the slice with the next tenant."""
    driver = machine(tmp_path)
    node = local_node(tmp_path, driver)
    heard = Heard(node)
    node.carry_out([begin("lease", argv=())])
    heard.wait("began", "lease")
    number = driver.instances(0)[0].id
    driver.attach(0, 4242, number, 0)
    monkeypatch.setattr("rltune.service.nodes.cuts.RELEASED_S", 0.3)
    node.carry_out([Stop("lease"), begin("next", argv=())])
    assert "pid 4242" in heard.wait("refused", "next").message
    driver.detach(0, 4242)
    node.carry_out([begin("next", argv=())])
    heard.wait("began", "next")
    node.close()


def test_stop_takes_everything_a_job_started(node):
    """Processes that a job started in the background would hold the GPU for ever."""
    heard = Heard(node)
    code = (
        "import os, sys, time\n"
        "for n in range(2):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            print('pid', os.getpid(), flush=True); time.sleep(600)\n"
        "        os._exit(0)\n"
        "time.sleep(600)"
    )
    node.carry_out([begin(argv=python(code))])
    wait_until(lambda: output(node, "r1").count("pid") == 2)
    pids = [int(line.split()[1]) for line in output(node, "r1").splitlines()]
    assert all(process_start(pid) for pid in pids)
    node.carry_out([Stop("r1")])
    heard.wait("ended", "r1")
    assert not any(process_start(pid) for pid in pids)


def test_what_a_command_leaves_behind_ends_with_it(node):
    """A daemon that a job left would run on in a slice that is given to the next job."""
    heard = Heard(node)
    code = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(600)\nprint('done')"
    node.carry_out([begin(argv=python(code), grace_s=0.2)])
    assert heard.wait("ended", "r1").code == 0
    assert not children_of(leader_of(node, "r1"))


def test_a_job_that_is_paused_goes_on_where_it_was(node):
    """A paused job would run on in secret, lose its memory, or never go on."""
    heard = Heard(node)
    code = (
        "import os, time\npid = os.fork()\nn = 0\n"
        "while True:\n    n += 1; print('child' if pid == 0 else 'parent', n, flush=True); time.sleep(0.02)"
    )
    node.carry_out([begin("a", argv=python(code), suspend="stop")])
    wait_until(lambda: "child 3" in output(node, "a") and "parent 3" in output(node, "a"))
    node.carry_out([Suspend("a")])
    heard.wait("suspended", "a")
    held = output(node, "a")
    node.carry_out([Suspend("a"), Cut(0, True, ())])
    heard.wait("suspended", "a", 2)
    assert "run a holds" in heard.wait("not_cut").message
    node.carry_out([begin("other", argv=("true",), cuts=())])  # the place is free for others meanwhile
    heard.wait("ended", "other")
    assert output(node, "a") == held
    assert node.inventory().runs["a"] == "suspended"
    node.carry_out([begin("b", argv=python(code), suspend="stop", resumes="a", cuts=())])
    assert heard.wait("began", "b").message == heard.wait("began", "a").message
    wait_until(lambda: len(output(node, "b")) > len(held) + 40)
    lines = output(node, "b").splitlines()
    assert [line for line in lines if line.startswith("child")][:-1] == [
        f"child {n}" for n in range(1, sum(line.startswith("child") for line in lines))
    ]
    assert set(node.inventory().runs) == {"b", "other"}
    node.carry_out([Suspend("b")])
    heard.wait("suspended", "b")
    node.carry_out([Stop("b")])
    assert heard.wait("ended", "b").code == -signal.SIGTERM


def test_a_job_that_saves_itself_begins_again_from_there(node):
    """A preempted job would be killed before it has saved, or begin from scratch."""
    heard = Heard(node)
    code = (
        "import os, signal, sys, time\n"
        "print('resumed' if os.environ.get('RLTUNE_RESUME') else 'anew', flush=True)\n"
        "signal.signal(15, lambda *_: (print('saved', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    node.carry_out([begin("a", argv=python(code))])
    wait_until(lambda: "ready" in output(node, "a"))
    node.carry_out([Suspend("a"), begin("b", argv=python(code), resumes="a")])
    heard.wait("suspended", "a")
    wait_until(lambda: "ready" in output(node, "b"))
    assert output(node, "a").split() == ["anew", "ready", "saved"] and output(node, "b").split()[0] == "resumed"
    assert node.inventory().runs == {"b": "began"}
    node.carry_out([Suspend("b")])
    heard.wait("suspended", "b")
    node.carry_out([Stop("b")])
    assert heard.wait("ended", "b").code == 0


def test_one_that_ends_before_it_is_suspended_has_ended(node):
    """A finished job would be begun once more."""
    heard = Heard(node)
    node.carry_out(
        [begin("a", argv=("true",)), begin("b", argv=SLEEP, held=(Held(1, SMALL),), cuts=(Cut(1, True, (SMALL,)),))]
    )
    heard.wait("ended", "a")
    node.carry_out([Suspend("a"), Suspend("unknown"), Stop("unknown")])
    assert heard.wait("ended", "a", 2).code == 0
    heard.wait("lost", "unknown", 2)


def test_a_long_log_keeps_its_end_and_tells_what_was_cut(tmp_path):
    """A chatty job would fill the disk, or lose the lines that say why it failed."""
    node = local_node(tmp_path, log_bytes=10_000)
    heard = Heard(node)
    code = "for n in range(20000): print(f'line {n:06}')"
    node.carry_out([begin(argv=python(code))])
    heard.wait("ended", "r1")
    first, end = node.log_span("r1")
    text = output(node, "r1")
    head, *lines = text.splitlines()
    assert head == f"[rltune: {first + len(head) + 1} bytes of older output were cut here]"
    assert lines == [f"line {n:06}" for n in range(20000 - len(lines), 20000)]
    assert end == 20000 * 12 and 10_000 - 100 <= len(text) <= 30_000
    assert node.read_log("r1", 0, 100) == b"" and node.read_log("r1", end - 12, 100) == b"line 019999\n"
    with open(node.log_path("r1")) as file:
        assert file.read() == text
    node.close()


def test_forgotten_runs_leave_their_output(node):
    """Records would pile up for ever, or a log go while somebody wants to read it."""
    heard = Heard(node)
    node.carry_out(
        [begin("a", argv=("echo", "said")), begin("b", held=(Held(1, SMALL),), cuts=(Cut(1, True, (SMALL,)),))]
    )
    heard.wait("ended", "a")
    heard.wait("began", "b")
    node.forget(["a", "b", "c"])
    wait_until(lambda: node.inventory().runs == {"b": "began"})
    assert output(node, "a") == "said\n"
    node.carry_out([begin("a")])
    assert "forgotten" in heard.wait("refused", "a").message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run jobs as others")
def test_a_job_runs_as_its_user(node):
    """A tenant's job would have the service's rights."""
    heard = Heard(node)
    code = "import os; print(os.getuid(), os.getgid(), os.getgroups(), os.environ['USER'])"
    node.carry_out(
        [
            begin(
                argv=("python3", "-I", "-c", code),
                user="nobody",
                environment={"PATH": "/usr/local/bin:/usr/bin:/bin"},
                directory="/",
            )
        ]
    )
    assert heard.wait("ended", "r1").code == 0, output(node, "r1")
    assert output(node, "r1").startswith("65534 65534 [65534] nobody")
    node.carry_out([begin("r3", argv=("sh", "-c", "echo said > /dev/stdout"), user="nobody", directory="/")])
    assert heard.wait("ended", "r3").code == 0 and output(node, "r3") == "said\n"
    node.carry_out([begin("r2", argv=("true",), user="nobody", directory="/root")])
    heard.wait("refused", "r2")


def test_another_user_is_refused_where_the_node_may_not(node, monkeypatch):
    """A job would run with the service's rights instead of its tenant's."""
    heard = Heard(node)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    node.carry_out([begin(user="nobody")])
    assert "only root" in heard.wait("refused", "r1").message


def test_one_node_a_folder(node, tmp_path):
    """Two services would both act on one machine's processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rltune.service.nodes.local.OWNER_S", 0.1)
        with pytest.raises(InputError, match=r"node\.lock"):
            local_node(tmp_path)
    with pytest.raises(InputError, match="another folder"):
        LocalNode("n", Adapter(machine(tmp_path), tmp_path / "store"), tmp_path / "machine.json")
