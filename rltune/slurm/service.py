"""`run` and `release`: look, decide, act, remember; until a signal ends it, and then everything is given back."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rltune.devices.open import store_path
from rltune.nouns.errors import Interrupted, RunError
from rltune.report.console import say
from rltune.slurm.acting import Act, Hands
from rltune.slurm.commands import Slurm, SlurmError, Unreachable
from rltune.slurm.deciding import Decider, Decision
from rltune.slurm.forecasting import Ended, Past, past_of
from rltune.slurm.moment import moment_of
from rltune.slurm.reading import Asked, Job, Node, Seen, counts_memory, default_partition, jobs_of, look, queue_of
from rltune.slurm.remembering import alone, read_memory
from rltune.slurm.telling import Log, print_decision

GIVE_BACK_TRIES, GIVE_BACK_PAUSE_S = 5, 2.0
"""Where the controller does not answer when everything is to be given back."""


class Ending:
    """Within the block SIGTERM and Ctrl-C are noted, not raised: what is being changed is finished first. The second one ends the
    process at once; the next start then gives back what was changed. An ignored Ctrl-C stays ignored."""

    def __init__(self) -> None:
        self.got = 0
        self._event = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Ending:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._come)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _come(self, number: int, _: FrameType | None) -> None:
        self.got = number
        self._event.set()
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)

    def wait(self, seconds: float) -> bool:
        """Sleep, but not beyond a signal; whether one came."""
        return self._event.wait(seconds)


@dataclass
class Beside:
    """A service beside one partition: its hands, its decider, its log, and the options."""

    slurm: Slurm
    partition: str
    hands: Hands
    decider: Decider
    log: Log
    cfg: Mapping[str, Any]
    memory_counts: bool
    past: Past | None = None

    def step(self) -> tuple[Decision, list[Act], float]:
        """One look, one decision, what follows from it; and the second of the look."""
        begun = time.perf_counter()
        seen = replace(look(self.slurm, self.partition), counts_memory=self.memory_counts)
        for note in seen.notes:
            self.log.write("note", note=note)
        acts = self.hands.notice(seen)
        usage: Mapping[str, float] = {}
        if self.past is not None:
            self.past.notice(seen)
            if self.cfg["runtimes"] == "predicted":
                seen = self.past.believed(seen)
            if self.decider.policy.flow:
                usage = self.past.usage(seen, self.decider.policy.flow)
        moment = self.hands.moment(seen, int(self.cfg["most"]))
        decision = self.decider.decide(seen, moment, usage)
        acts += self.hands.act(seen, decision)
        about = {"partition": self.partition, "depth": self.cfg["depth"], "policy": self.decider.name,
                 "allocator": self.cfg["allocator"]["name"], "backfill": self.cfg["backfill"],
                 "running": len(moment.snapshot.running.job), "free_gpus": int(moment.snapshot.free.sum())}  # fmt: skip
        self.log.decision(about, decision, acts, time.perf_counter() - begun)
        return decision, acts, seen.now_s

    def fingerprint(self) -> str:
        """What a look without details shows: any job that came, began, ended, was held or released changes it."""
        told = self.slurm.run("squeue", "-h", "-a", "-p", self.partition, "-o", "%i %T %r")
        return "\n".join(sorted(_without_turns(line) for line in told.splitlines()))

    def loop(self, ending: Ending) -> None:
        """Until a signal: decide when something changed, and every ``every_s`` seconds."""
        seen, due, down = "", 0.0, False
        while not ending.got:
            try:
                found = self.fingerprint()
                if found != seen or time.monotonic() >= due:
                    decision, acts, now_s = self.step()
                    due = time.monotonic() + float(self.cfg["every_s"])
                    self.show(decision, acts, now_s)
                    # As it was before the look: what came meanwhile, our own changes too, brings another decision.
                    seen = found
                if down:
                    say("Slurm's controller answers again")
                down = False
            except Unreachable as error:
                if not down:
                    say(f"note: {error}; going on trying")
                    self.log.write("unreachable", error=str(error))
                down = True
            ending.wait(float(self.cfg["poll_s"]))

    def show(self, decision: Decision, acts: list[Act], now_s: float) -> None:
        """On the screen: all of a decision that is advice, else what was done."""
        if self.cfg["depth"] == "advise":
            print_decision(decision, now_s)
        elif acts:
            told = ", ".join(f"{count} {name}" for name, count in Counter(act["act"] for act in acts).items())
            refused = sum("refused" in act for act in acts)
            more = f" ({refused} refused)" if refused else ""
            say(f"{len(decision.starts)} start, {len(decision.rows) - len(decision.starts)} wait: {told}{more}")


def _without_turns(line: str) -> str:
    """Whether a job waits for its turn or for GPUs, Slurm rewrites all the time."""
    job, state, reason = ([*line.split(maxsplit=2), "", ""])[:3]
    return f"{job} {state} {'' if reason in ('Priority', 'Resources', 'None') else reason}"


def run(cfg: Mapping[str, Any]) -> None:
    """``python -m rltune.slurm``. Raises Interrupted after a signal, RunError where control could not be given back."""
    slurm = Slurm(float(cfg["command_timeout_s"]))
    decider = Decider(cfg["policy"], cfg["allocator"], cfg["backfill"])
    partition = default_partition(slurm, cfg["partition"])
    path = state_path(cfg, partition)
    with alone(path), Ending() as ending:
        memory = read_memory(path, partition)
        hands = Hands(slurm, memory, cfg["depth"], float(cfg["patience_s"]), cfg["priority_from"])
        log = Log(Path(cfg["log"]) if cfg["log"] else path.with_suffix(".jsonl"))
        if memory.marks and not (cfg["once"] and memory.depth == cfg["depth"]):
            told(log, give_back(hands), "left by an earlier run")
        memory.depth = cfg["depth"]
        if cfg["depth"] != "advise":
            # Kernels compile at their first use, which may take a minute: not while jobs are held.
            rehearse(decider, cfg["runtimes"] == "predicted")
        past = past_of(path, cfg["runtimes"] == "predicted" or bool(decider.policy.flow))
        beside = Beside(slurm, partition, hands, decider, log, cfg, counts_memory(slurm), past)
        log.write("begin", partition=partition, depth=cfg["depth"], policy=cfg["policy"])
        if cfg["once"]:
            decision, acts, now_s = beside.step()
            beside.show(decision, acts, now_s)
            return
        with given_back(hands, log):
            beside.loop(ending)
        if ending.got:
            raise Interrupted(ending.got, "interrupted; control was given back to Slurm")


def rehearse(decider: Decider, predicts: bool) -> None:
    """A decision on made-up jobs, so that everything is loaded and compiled before the first real one."""
    gpus = {"a100": 8, "a100_1g.10gb": 7}
    nodes = tuple(Node(f"n{k}", gpus, {"a100": 4 * k}, True, 64, 0.0) for k in range(3))
    asked = [
        Asked({"a100": 16}, 2, 8),
        *(Asked({"a100": k}, 1, k) for k in (4, 2, 1, 8, 1)),
        Asked({"a100_1g.10gb": 1}, 1, 1),
    ]
    waits = [
        Job(str(k), float(k), "p", "u", "", "PENDING", "Priority", 1, 0, 60.0 * (k + 1), each)
        for k, each in enumerate(asked)
    ]
    held = {"a100": 4}
    runs = Job("r", 0.0, "p", "u", "", "RUNNING", "", 1, 0, 600.0, Asked(held), nodes=("n1",), held=(held,))
    seen = Seen(100.0, "p", (*waits, runs), nodes)
    if predicts:
        seen = Past(Path(), [Ended("u", "", "", 1, 0.0, 60.0)]).believed(seen)
    decider.decide(seen, moment_of(seen))


@contextmanager
def given_back(hands: Hands, log: Log) -> Iterator[None]:
    """On leaving, by whatever way, everything that was changed is given back."""
    try:
        yield
    finally:
        told(log, give_back(hands), "end")


def give_back(hands: Hands, pause: Callable[[float], None] = time.sleep) -> list[Act]:
    """Give everything back, with some patience for a controller that does not answer. RunError where it never does."""
    for k in range(GIVE_BACK_TRIES):
        try:
            queue = queue_of(hands.slurm)
            everywhere = []
            for record in queue["jobs"]:
                with suppress(KeyError, TypeError, ValueError):
                    everywhere += jobs_of(record)
            return hands.give_back(everywhere)
        except Unreachable:
            if k + 1 < GIVE_BACK_TRIES:
                pause(GIVE_BACK_PAUSE_S)
        except SlurmError as error:
            raise _not_given_back(hands, str(error)) from None
    raise _not_given_back(hands, "its controller does not answer")


def _not_given_back(hands: Hands, why: str) -> RunError:
    return RunError(
        f"control was not given back to Slurm ({why}): {len(hands.memory.marks)} jobs stand in {hands.memory.path}; "
        "run python -m rltune.slurm release once it answers"
    )


def told(log: Log, acts: list[Act], why: str) -> None:
    """On the screen and in the log."""
    jobs = len({act["job"] for act in acts})
    log.write("given back", why=why, jobs=jobs, acts=acts)
    if acts:
        refused = sum("refused" in act for act in acts)
        say(
            f"{why}: {jobs} jobs given back to Slurm"
            + (f" ({refused} changes refused, see the log)" if refused else "")
        )


def release(cfg: Mapping[str, Any]) -> None:
    """``python -m rltune.slurm release``: give back what an earlier run left, and end."""
    slurm = Slurm(float(cfg["command_timeout_s"]))
    partition = default_partition(slurm, cfg["partition"])
    path = state_path(cfg, partition)
    with alone(path):
        memory = read_memory(path, partition)
        log = Log(Path(cfg["log"]) if cfg["log"] else path.with_suffix(".jsonl"))
        if not memory.marks:
            say(f"nothing to give back: {path} names no jobs")
            return
        told(log, give_back(Hands(slurm, memory, "place")), "release")


def state_path(cfg: Mapping[str, Any], partition: str) -> Path:
    """The file that remembers."""
    return Path(cfg["state"]) if cfg["state"] else store_path() / f"slurm-{partition}.json"
