"""Look, decide, act: objects are kept up to date by watches, each change brings one decision on all of them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rltune.kubernetes.gates import NODES, PODS, instead_of, released, replace_pod, spread
from rltune.kubernetes.http import Api, ApiError, Cache, Object, key_of
from rltune.kubernetes.kueue import (
    PENDING,
    READY,
    RETRY,
    flavors_by_name,
    made_active,
    ours,
    resources,
    sent,
    waited_s,
    waits,
    with_state,
)
from rltune.kubernetes.reading import (
    PLACES,
    WORKLOAD,
    fits_form,
    gang_of,
    gated,
    job_of_pods,
    job_of_workload,
    nodes_of,
    only_ours,
    profile_for,
    read_places,
    running_of,
    second_of,
)
from rltune.nouns.errors import InputError, Interrupted
from rltune.report.console import say
from rltune.slurm.deciding import Decider, Decision
from rltune.slurm.moment import Place, moment_of
from rltune.slurm.reading import Asked, Job, Node, Seen
from rltune.slurm.service import Ending, rehearse


@dataclass(slots=True)
class Waiting:
    """A job that waits for us: a workload, or the pods of a gang (``profile``: the slice chosen for a pod that names none)."""

    workload: Object | None = None
    pods: list[Object] = field(default_factory=list)
    profile: str | None = None
    job: Job = field(default_factory=lambda: Job("", 0.0, "", "", "", "PENDING", "", 1, 0, 1.0, Asked({})))
    each: int = 1
    """GPUs of a pod."""


class Beside:
    """``step()``: one decision, told in lines, and carried out unless ``dry_run``."""

    def __init__(self, api: Api, decider: Decider, cfg: Mapping[str, Any]) -> None:
        self._api, self._decider, self._cfg = api, decider, cfg
        self.changed = threading.Event()
        self._kueue = resources(str(cfg["kueue_version"])) if cfg["mode"] in ("kueue", "both") else {}
        self._caches = {"nodes": Cache(api, NODES, self.changed), "pods": Cache(api, PODS, self.changed)}
        self._caches |= {name: Cache(api, found, self.changed) for name, found in self._kueue.items()}
        self._told: dict[str, str] = {}

    def begin(self) -> None:
        """Everything is listed, and watched from then on. InputError: the server refuses a list."""
        for name, cache in self._caches.items():
            try:
                cache.begin()
            except ApiError as error:
                hint = " (without Kueue: mode=gates)" if name in self._kueue and error.status == 404 else ""
                raise InputError(f"{error}{hint}") from None

    def end(self) -> None:
        for cache in self._caches.values():
            cache.end()

    def errors(self) -> list[str]:
        """Of watches that are broken now."""
        return [cache.error for cache in self._caches.values() if cache.error]

    def _of(self, name: str) -> list[Object]:
        return self._caches[name].objects if name in self._caches else []

    # --- one decision ---------------------------------------------------------------------------------

    def step(self, now_s: float | None = None) -> list[str]:
        """What was decided anew, a line each."""
        now = time.time() if now_s is None else now_s
        checks = ours(self._of("checks"))
        names = {one["metadata"]["name"] for one in checks}
        lines = self._activate(checks, now)
        node_objects, pods = self._of("nodes"), self._of("pods")
        nodes = nodes_of(node_objects, pods, self._cfg["tolerated"])
        waiting, notes = self._waiting(node_objects, nodes, pods, names, now)
        gone = self._sent(pods, names)
        jobs = [one.job for one in waiting.values()] + [_sent_job(name, places, now) for name, places in gone.items()]
        seen = Seen(now, "kubernetes", (*jobs, *running_of(pods, node_objects)), nodes, counts_memory=True)
        moment = moment_of(seen, sent=gone, most=int(self._cfg["most"]))
        decision = self._decider.decide(seen, moment)
        return [*lines, *self._anew(notes), *self._carry_out(decision, waiting, names, now)]

    def _activate(self, checks: Sequence[Object], now: float) -> list[str]:
        """Kueue uses a check only once its controller has said that it is there."""
        lines = []
        for check in checks:
            if made_active(check, now) is not None:
                lines.append(f"admission check {check['metadata']['name']}: Active")
                if not self._cfg["dry_run"]:
                    path = self._kueue["checks"].one(check)
                    self._api.change(path, check, lambda one: made_active(one, now), status=True)
        return lines

    def _waiting(
        self, node_objects: Sequence[Object], nodes: Sequence[Node], pods: Sequence[Object], names: set[str], now: float
    ) -> tuple[dict[str, Waiting], dict[str, str]]:
        """Jobs that wait for us, by id; and what cannot be read, by its place."""
        found: dict[str, Waiting] = {}
        notes: dict[str, str] = {}
        flavors = flavors_by_name(self._of("flavors"))
        for workload in self._of("workloads"):
            if self._mine(workload) and waits(workload, names):
                read = partial(job_of_workload, workload, node_objects, flavors)
                _read(found, notes, Waiting(workload), read)
        if self._cfg["mode"] != "kueue":
            mine = [pod for pod in pods if self._mine(pod)]
            for name, gang in _gangs(mine, float(self._cfg["settle_s"]), now).items():
                one = Waiting(None, gang)
                _read(found, notes, one, partial(_job_of_pods, one, name, node_objects, nodes))
        return found, notes

    def _mine(self, found: Object) -> bool:
        return self._cfg["namespace"] in (None, key_of(found)[0])

    def _sent(self, pods: Sequence[Object], names: set[str]) -> dict[str, tuple[Place, ...]]:
        """Places of what was sent and is not bound to its nodes yet."""
        bound = {
            (pod["metadata"].get("annotations") or {}).get(WORKLOAD) for pod in pods if pod["spec"].get("nodeName")
        }
        out = {
            "/".join(key_of(one)): places
            for one in self._of("workloads")
            if (places := sent(one, names)) and "/".join(key_of(one)) not in bound
        }
        for pod in pods:
            notes = pod["metadata"].get("annotations") or {}
            if PLACES in notes and WORKLOAD not in notes and not pod["spec"].get("nodeName") and not gated(pod):
                out[f"pod {'/'.join(key_of(pod))}"] = read_places(notes[PLACES])
        return {name: places for name, places in out.items() if places}

    # --- carrying it out ------------------------------------------------------------------------------

    def _carry_out(self, decision: Decision, waiting: Mapping[str, Waiting], names: set[str], now: float) -> list[str]:
        lines: dict[str, str] = {}
        for row in decision.rows:
            one = waiting[row.job.id]
            if row.starts and not fits_form(one.each, row.places):
                lines[row.job.id] = self._wait(one, "its pods do not fill the places that are free", names, now)
            elif row.starts:
                lines[row.job.id] = self._start(one, row.places, row.why, names, now)
            else:
                lines[row.job.id] = self._wait(one, row.why, names, now)
        for job, why in decision.apart:
            if job.id in waiting and job.apart:
                # Not ours to place: the scheduler does, and nobody waits for us in vain.
                lines[job.id] = self._start(waiting[job.id], (), f"left to the scheduler: {why}", names, now)
            elif job.id in waiting:
                lines[job.id] = self._wait(waiting[job.id], why, names, now)
        return self._anew(lines)

    def _start(self, one: Waiting, places: Sequence[Place], why: str, names: set[str], now: float) -> str:
        where = " ".join(f"{place.node}:{place.gpus}" for place in places) or "anywhere"
        line = f"{one.job.id} starts on {where}: {why}"
        if self._cfg["dry_run"]:
            return line
        try:
            if one.workload is not None:
                self._tell(one.workload, names, READY, why, places, now)
            elif one.profile is not None and places:
                replace_pod(self._api, one.pods[0], instead_of(one.pods[0], one.profile, places[0]))
            else:
                spots = spread(one.pods, places, one.each) if places else [None] * len(one.pods)
                for pod, place in zip(one.pods, spots, strict=True):
                    self._api.change(PODS.one(pod), pod, lambda now_is, place=place: released(now_is, place))  # type: ignore[misc]
        except ApiError as error:
            return f"{one.job.id}: {error}"
        return line

    def _wait(self, one: Waiting, why: str, names: set[str], now: float) -> str:
        if one.workload is None:
            return f"{one.job.id} waits: {why}"
        late = waited_s(one.workload, now) > float(self._cfg["patience_s"])
        line = f"{one.job.id} {'gives its quota back (Retry)' if late else 'waits'}: {why}"
        if self._cfg["dry_run"]:
            return line
        try:
            self._tell(one.workload, names, RETRY if late else PENDING, why, (), now)
        except ApiError as error:
            return f"{one.job.id}: {error}"
        return line

    def _tell(
        self, workload: Object, names: set[str], state: str, why: str, places: Sequence[Place], now: float
    ) -> None:
        path = self._kueue["workloads"].one(workload)
        self._api.change(path, workload, lambda one: with_state(one, names, state, why, places, now), status=True)

    def _anew(self, lines: Mapping[str, str]) -> list[str]:
        """Those that say something else than the last time."""
        new = [line for name, line in lines.items() if self._told.get(name) != line]
        self._told.update(lines)
        return new


def _read(found: dict[str, Waiting], notes: dict[str, str], one: Waiting, read: Callable[[], tuple[Job, int]]) -> None:
    """What somebody wrote wrongly concerns their job alone."""
    try:
        one.job, one.each = read()
        found[one.job.id] = one
    except InputError as error:
        notes[str(error).partition(":")[0]] = str(error)


def _job_of_pods(one: Waiting, name: str, node_objects: Sequence[Object], nodes: Sequence[Node]) -> tuple[Job, int]:
    first = one.pods[0]
    one.profile = profile_for(first, nodes)
    if one.profile is not None and (first["metadata"].get("ownerReferences") or len(one.pods) > 1):
        raise InputError(
            f"pod {'/'.join(key_of(first))}: a slice by its memory is for single pods without an owner; name the resource itself"
        )
    return job_of_pods(name, one.pods, node_objects, one.profile)


def _gangs(pods: Sequence[Object], settle_s: float, now: float) -> dict[str, list[Object]]:
    """Pods that only our gate keeps, by gang; a gang to which a pod came just now may not be complete."""
    found: dict[str, list[Object]] = defaultdict(list)
    for pod in pods:
        if gated(pod):
            found[gang_of(pod)].append(pod)
    return {
        name: sorted(gang, key=lambda pod: str(pod["metadata"]["name"]))
        for name, gang in found.items()
        if all(only_ours(pod) for pod in gang)
        and max(second_of(pod["metadata"]["creationTimestamp"]) for pod in gang) <= now - settle_s
    }


def _sent_job(name: str, places: Sequence[Place], now: float) -> Job:
    gpus: dict[str, int] = defaultdict(int)
    for place in places:
        gpus[place.kind] += place.gpus
    return Job(name, now, "", "", name, "PENDING", "", 1, 0, 1.0, Asked(dict(gpus)))


def run(cfg: Mapping[str, Any]) -> None:
    """``python -m rltune.kubernetes``. Raises Interrupted after a signal; what was decided stays decided."""
    api = Api(cfg["server"], cfg["token"], cfg["ca"])
    decider = Decider(cfg["policy"], cfg["allocator"], cfg["backfill"])
    rehearse(decider, False)
    beside = Beside(api, decider, cfg)
    with Ending() as ending:
        beside.begin()
        if cfg["dry_run"]:
            say("note: dry_run=true: nothing is changed")
        try:
            while not ending.got:
                beside.changed.clear()
                for line in beside.step():
                    print(line, flush=True)
                for error in beside.errors():
                    say(f"note: {error}; going on trying")
                if cfg["once"]:
                    return
                _rest(beside.changed, ending, float(cfg["every_s"]), float(cfg["gather_s"]))
        finally:
            beside.end()
    raise Interrupted(ending.got, "interrupted; pods that were let go stay so, the others wait for the next start")


def _rest(changed: threading.Event, ending: Ending, every_s: float, gather_s: float) -> None:
    """Until something changes, a while is over, or a signal comes."""
    until = time.monotonic() + every_s
    while not changed.is_set() and time.monotonic() < until and not ending.wait(0.1):
        pass
    ending.wait(gather_s)
