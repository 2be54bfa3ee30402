"""The GPUs of a node: cut into the instances that the service wants, looked at, and named for a run.

An instance is the service's own where the adapter's journal has the service's claim on it; all others are left alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rltune.devices.adapter import Adapter, RolledBack, Unsettled
from rltune.devices.driver import Identity
from rltune.devices.execution.worker import PAUSE_S, RELEASED_S, patiently
from rltune.devices.models import model_of, type_of
from rltune.devices.ownership import key_of
from rltune.devices.reading import read_state, read_users
from rltune.devices.state import GpuState, Instance, compute_slices, whole
from rltune.devices.status import NOT_SUPPORTED, DeviceError
from rltune.mig.geometry import geometry
from rltune.nouns.errors import InputError
from rltune.service.orders import Cut, Gpu, Held

TENANT = "rltune-service"
"""In whose name the adapter holds the service's instances, also while no service runs."""


class Device:
    """``Device(adapter)``. Different threads may change different GPUs at once; errors are InputError, one line each."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter, self.driver = adapter, adapter.driver

    def count(self) -> int:
        return len(self.driver.gpus())

    def _identity(self, gpu: int) -> Identity:
        gpus = self.driver.gpus()
        if not 0 <= gpu < len(gpus):
            raise InputError(f"GPU {gpu}: this node has {len(gpus)}; numbers begin at 0")
        if not gpus[gpu].uuid:
            raise InputError(f"GPU {gpu} cannot be reached; `python -m rltune.devices show` says why")
        return gpus[gpu]

    def _claims(self) -> dict[str, set[tuple[str, int]]]:
        found: dict[str, set[tuple[str, int]]] = {}
        for one in self.adapter.tenants():
            if one.tenant == TENANT:
                found.setdefault(one.gpu, set()).add((one.profile, one.start))
        return found

    # Changes.

    def cut(self, wanted: Cut) -> None:
        """Bring a GPU to exactly these instances of ours, in one transaction; foreign ones stay, and are an error only in the way."""
        gpu = self._identity(wanted.gpu)
        self.adapter.recover([gpu.uuid])
        now = read_state(self.driver, gpu.index)
        instances = self._checked(wanted, now)
        claims = self._claims().get(gpu.uuid, set())
        foreign = [one for one in now.instances if key_of(one) not in claims]
        self._check_foreign(wanted, foreign, instances)
        destroy = [one for one in now.instances if one not in foreign and one not in instances]
        create = [one for one in instances if one not in now.instances]
        if now.mig is None or (not destroy and not create and (now.mig, now.pending) == (wanted.mig, wanted.mig)):
            return
        try:
            patiently(
                lambda: self.adapter.reconfigure(gpu.uuid, destroy, create, TENANT, lasting=True, mig=wanted.mig),
                bool(destroy),
                final=(RolledBack, Unsettled),
            )
        except InputError as error:
            if not foreign:
                raise
            names = " ".join(map(str, foreign))
            raise InputError(f"{error}; {names} is not the service's, and was left alone") from error
        self._check_reached(wanted, read_state(self.driver, gpu.index), instances)

    def _checked(self, wanted: Cut, now: GpuState) -> list[Instance]:
        where = f"GPU {wanted.gpu}"
        if wanted.instances and not wanted.mig:
            raise InputError(f"{where}: instances without MIG mode; order mig too")
        if wanted.mig and now.mig is None:
            raise InputError(f"{where} has no MIG; order it whole")
        if len(set(wanted.instances)) < len(wanted.instances):
            raise InputError(f"{where}: an instance is ordered twice; name each once")
        if now.mig and wanted.instances:
            listed = {one.name: one.starts for one in self.driver.profiles(wanted.gpu)}
            for profile, start in wanted.instances:
                if start not in listed.get(profile, ()):
                    known = ", ".join(f"{name} at {' '.join(map(str, starts))}" for name, starts in listed.items())
                    raise InputError(f"{where} has no {profile} at memory slice {start}; it has {known}")
        return [whole(profile, start) for profile, start in wanted.instances]

    def _check_foreign(self, wanted: Cut, foreign: Sequence[Instance], instances: Sequence[Instance]) -> None:
        keys = {key_of(one) for one in instances}
        taken = [one for one in foreign if key_of(one) in keys or not wanted.mig]
        if taken:
            names = " ".join(map(str, taken))
            raise InputError(
                f"GPU {wanted.gpu}: {names} was not made by the service, and is left alone; destroy it, or `tenants claim` it for "
                f"{TENANT}"
            )

    def _check_reached(self, wanted: Cut, now: GpuState, instances: Sequence[Instance]) -> None:
        if (now.mig, now.pending) != (wanted.mig, wanted.mig):
            word = "on" if wanted.mig else "off"
            raise InputError(
                f"GPU {wanted.gpu}: MIG is {word} after a reset of the GPU only; reset it, then order again"
            )
        if not set(instances) <= set(now.instances):
            raise InputError(f"GPU {wanted.gpu} is [{now}]: something else changed it meanwhile; order again")

    def prepare(self, gpu: int, cut: Cut | None, held: Sequence[tuple[Held, bool]]) -> list[str]:
        """Make a cut, then name what a run is to hold there, for CUDA_VISIBLE_DEVICES.

        With each: whether the run is to be alone there; then no process may be in it.
        """
        if cut is not None:
            self.cut(cut)
        if not held:
            return []
        identity = self._identity(gpu)
        return [self._named(identity, one, alone) for one, alone in held]

    def _named(self, gpu: Identity, held: Held, alone: bool) -> str:
        if held.instance is None:
            if read_state(self.driver, gpu.index).mig:
                raise InputError(
                    f"GPU {gpu.index}: MIG is on, so that it cannot be held whole; cut it with mig off first"
                )
            if alone:
                self._check_idle(gpu, None)
            return gpu.uuid
        one = whole(*held.instance)
        if held.instance not in self._claims().get(gpu.uuid, set()):
            raise InputError(f"GPU {gpu.index}: {one} is not there, or not the service's; cut it first")
        uuids = self.adapter.uuids(gpu.uuid).get(one)
        if not uuids:
            raise InputError(f"GPU {gpu.index}: the driver lists no MIG UUID for {one}; try again")
        if alone:
            self._check_idle(gpu, one)
        return uuids[0]

    def _check_idle(self, gpu: Identity, one: Instance | None) -> None:
        """What one run, or the holder of a lease, left running must not share the place with the next."""
        deadline = time.monotonic() + RELEASED_S
        while who := self._users(gpu.index, one):
            if time.monotonic() >= deadline:
                raise InputError(f"GPU {gpu.index}: {who} still runs in {one or 'it'}; end that first")
            time.sleep(PAUSE_S)

    def _users(self, gpu: int, one: Instance | None) -> str:
        """Who runs there, in a few words."""
        if one is not None:
            return read_users(self.driver, gpu, {}).of.get(one, "")
        try:
            return ", ".join(f"pid {process.pid}" for process in self.driver.processes(gpu))
        except DeviceError as error:
            if error.code == NOT_SUPPORTED:
                return ""  # WSL and the like: nobody can tell
            raise

    # What is there.

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs; one that does not answer is doubtful. OSError where the driver cannot even list them."""
        try:
            identities, claims = self.driver.gpus(), self._claims()
        except InputError as error:
            raise OSError(str(error)) from error
        return tuple(self._gpu(one, claims.get(one.uuid, set())) for one in identities)

    def _gpu(self, gpu: Identity, claims: set[tuple[str, int]]) -> Gpu:
        if not gpu.uuid:
            return Gpu("", "any", False, doubtful="it cannot be reached")
        kind = "any"
        try:
            kind = type_of(gpu.name, self.driver.telemetry(gpu.index).memory_total_bytes)
            now = read_state(self.driver, gpu.index)
        except InputError as error:
            return Gpu(gpu.uuid, kind, False, doubtful=str(error))
        ours = tuple(key_of(one) for one in now.instances if key_of(one) in claims)
        foreign = tuple(key_of(one) for one in now.instances if key_of(one) not in claims)
        word = "on" if now.pending else "off"
        waits = "" if now.pending == now.mig else f"MIG is {word} after a reset of the GPU only; reset it"
        return Gpu(gpu.uuid, kind, bool(now.mig), ours, foreign, waits)

    def environment(self, held: Sequence[Held], devices: Sequence[str]) -> dict[str, str]:
        """What a program finds in its environment about its GPUs, as in `rltune.devices.execution.executor`.

        Of several instances or GPUs the profiles stand comma-separated, and compute slices are summed.
        """
        whole_gpu = self._compute(held[0].gpu) if held else 0
        slices = [compute_slices(one.instance[0]) if one.instance else self._compute(one.gpu) for one in held]
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(devices),
            "RLTUNE_PROFILE": ",".join(one.instance[0] if one.instance else "whole" for one in held),
            "RLTUNE_COMPUTE_SLICES": str(sum(slices)),
            "RLTUNE_GPU_COMPUTE_SLICES": str(whole_gpu),
        }

    def _compute(self, gpu: int) -> int:
        """Compute slices of a whole GPU; 1 where our tables do not have its type."""
        one = self._identity(gpu)
        model = model_of(one.name, self.driver.telemetry(gpu).memory_total_bytes)
        return geometry(model).compute if model else 1
