"""GPUs that do not exist: builds ``nvml.c``, gives it a state, puts it in place of libnvidia-ml, and controls it.

with fake(["A100-80GB", "A30"]) as nvml:
    driver = NvmlDriver()
    nvml.set_fault("kill_after", nth=3)
    subprocess.run(..., env=os.environ | nvml.env)
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import Structure, c_char, c_uint32, c_uint64
from functools import cache
from pathlib import Path

import pynvml

SOURCE = Path(__file__).with_name("nvml.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")
FUNCTION_NOT_FOUND = 13
NO_INSTANCE = 0xFFFFFFFF
KINDS = ("error", "error_after", "delay", "kill_before", "kill_after", "from_on")
ACTIVATIONS = {"ok": 0, "in_use": 19, "reset_required": 16}
LISTS = {"compute": 1, "graphics": 2, "mps": 4}


class Compute(Structure):
    _fields_ = [(name, c_uint32) for name in ("live", "id", "slices", "start", "generation")]


class Instance(Structure):
    _fields_ = [
        *((name, c_uint32) for name in ("live", "id", "row", "start", "size", "generation")),
        ("profile", c_char * 24),
        ("compute", Compute * 8),
    ]


class Mig(Structure):
    _fields_ = [(name, c_uint32) for name in ("live", "gi", "ci", "generation")]


class Process(Structure):
    _fields_ = [*((name, c_uint32) for name in ("live", "pid", "gi", "ci", "lists", "unused")), ("memory", c_uint64)]


class Gpu(Structure):
    _fields_ = [
        *(
            (name, c_uint32)
            for name in ("model", "current", "pending", "activation", "lost", "serial", "resets", "unused")
        ),
        ("instances", Instance * 8),
        ("mig", Mig * 8),
        ("processes", Process * 32),
    ]


class Fault(Structure):
    _fields_ = [*((name, c_uint32) for name in ("kind", "left", "code", "delay_ms")), ("call", c_char * 64)]


class Refusal(Structure):
    _fields_ = [("code", c_uint32), ("call", c_char * 64)]


class State(Structure):
    """The same as ``struct state`` in ``state.h``."""

    _fields_ = [
        *((name, c_uint32) for name in ("gpus", "root", "old_uuid", "generation", "calls", "unused")),
        ("gpu", Gpu * 16),
        ("faults", Fault * 16),
        ("refusals", Refusal * 32),
        ("log", (c_char * 64) * 4096),
    ]


@cache
def library() -> Path:
    """The compiled stand-in, in a folder named by its source: ``libnvidia-ml.so.1``, to be found by LD_LIBRARY_PATH.

    Its soname is another, so that within a test's own process only the binding that `fake` points to it finds it.
    """
    assert COMPILER, "no C compiler"
    sources = b"".join(path.read_bytes() for path in sorted(SOURCE.parent.glob("*.[ch]")))
    folder = Path(tempfile.gettempdir()) / f"rltune-fake-nvml-{os.getuid()}" / hashlib.sha256(sources).hexdigest()[:16]
    made = folder / "libnvidia-ml.so.1"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=folder
        ) as scratch:  # several workers may build at once; the last rename wins
            new = Path(scratch) / "new.so"
            options = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libfake-nvml.so"]
            subprocess.run([COMPILER, *options, "-o", str(new), str(SOURCE)], check=True)
            new.replace(made)
    return made


@cache
def loaded() -> ctypes.CDLL:
    """The stand-in in this process; it has no GPUs until `fake` gives it a state."""
    lib = ctypes.CDLL(str(library()))
    lib.fake_nvml_use(None)
    lib.fake_nvml_state_bytes.restype = ctypes.c_uint
    assert lib.fake_nvml_state_bytes() == ctypes.sizeof(State), "State here and in state.h differ"
    return lib


class FakeNvml:
    """The state of some GPUs, read and changed straight in its file, beside the driver under test."""

    def __init__(self, path: Path, models: Sequence[str], options: Mapping[str, object]) -> None:
        self.path, self.models, self.options = path, tuple(models), dict(options)
        path.write_bytes(bytes(ctypes.sizeof(State)))
        self._file = path.open("r+b")
        self._state = State.from_buffer(mmap.mmap(self._file.fileno(), ctypes.sizeof(State)))
        self.reset()

    @property
    def env(self) -> dict[str, str]:
        """What a subprocess needs in its environment to see these GPUs."""
        return {"LD_LIBRARY_PATH": str(library().parent), "FAKE_NVML_STATE": str(self.path)}

    @contextmanager
    def state(self) -> Iterator[State]:
        """The state itself, locked: no call of any process runs meanwhile (so none may be made inside)."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield self._state
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def reset(self) -> None:
        """Everything as `fake` made it: modes, no instances, no processes, no faults, no counts."""
        self._reset(**self.options)

    def _reset(
        self,
        *,
        root: bool = True,
        mig: bool | Sequence[bool] = True,
        activation: str = "ok",
        old_uuid: bool = False,
        missing: Iterable[str] = (),
        refuse: Mapping[str, int] | None = None,
    ) -> None:
        with self.state() as state:
            ctypes.memset(ctypes.byref(state), 0, ctypes.sizeof(State))
            state.gpus, state.root, state.old_uuid = len(self.models), root, old_uuid
            modes = [mig] * len(self.models) if isinstance(mig, bool) else mig
            for serial, (gpu, model, mode) in enumerate(zip(state.gpu, self.models, modes, strict=False)):
                gpu.serial = serial
                gpu.model = loaded().fake_nvml_model(model.encode())
                if gpu.model == NO_INSTANCE:
                    raise ValueError(f"no model {model}")
                gpu.current = gpu.pending = mode and model != "V100"
                gpu.activation = ACTIVATIONS[activation]
        self.refuse(dict.fromkeys(missing, FUNCTION_NOT_FOUND) | dict(refuse or {}))

    # What was called

    def calls(self) -> int:
        """Calls so far, of all processes."""
        return int(self._state.calls)

    def log(self) -> list[str]:
        """Names of the last 4096 calls, oldest first."""
        with self.state() as state:
            size = len(state.log)
            return [state.log[n % size].value.decode() for n in range(max(0, state.calls - size), state.calls)]

    # What goes wrong

    def set_fault(self, kind: str, nth: int = 1, *, code: int = 999, delay_ms: int = 0, call: str = "") -> None:
        """The ``nth`` call from now on (1: the next; of the function ``call``, else of any) fails, once.

        ``error`` without effect, ``error_after`` its effect, ``delay``, ``kill_before`` and ``kill_after`` its effect;
        ``from_on``: that call and all later ones fail with ``code``.
        """
        with self.state() as state:
            free = next(fault for fault in state.faults if not fault.kind)
            free.kind, free.left, free.code, free.delay_ms = KINDS.index(kind) + 1, nth, code, delay_ms
            free.call = call.encode()

    def refuse(self, answers: Mapping[str, int]) -> None:
        """Functions that always answer so, besides those already told; 0: no longer."""
        with self.state() as state:
            for name, code in answers.items():
                rows = list(state.refusals)
                row = next((r for r in rows if r.call == name.encode()), None) or next(r for r in rows if not r.code)
                row.call, row.code = name.encode(), code

    def clear(self) -> None:
        """No faults, and counts from 0; refusals, instances and processes stay."""
        with self.state() as state:
            state.calls = 0
            ctypes.memset(ctypes.byref(state.faults), 0, ctypes.sizeof(state.faults))

    def lose(self, gpu: int, lost: bool = True) -> None:
        """The GPU falls off the bus: every call about it answers GPU_IS_LOST; or it is back."""
        with self.state() as state:
            state.gpu[gpu].lost = lost

    def reset_gpu(self, gpu: int) -> None:
        """What a reset of the GPU does: the pending mode is on, instances and processes are gone."""
        with self.state() as state:
            one = state.gpu[gpu]
            one.current = one.pending
            one.resets += 1
            for part in (one.instances, one.mig, one.processes):
                ctypes.memset(ctypes.byref(part), 0, ctypes.sizeof(part))

    def swap(self, one: int, other: int) -> None:
        """Two cards change places, as after a reboot or in another slot: each keeps its UUID and what is on it."""
        with self.state() as state:
            kept = bytes(state.gpu[one])
            size = ctypes.sizeof(Gpu)
            ctypes.memmove(ctypes.byref(state.gpu[one]), ctypes.byref(state.gpu[other]), size)
            ctypes.memmove(ctypes.byref(state.gpu[other]), kept, size)

    # What there is

    def made(self) -> dict[tuple[int, int], tuple[str, int, tuple[int, ...]]]:
        """Every instance by its card and its creation, which no other instance shares, with its compute instances' creations."""
        with self.state() as state:
            return {
                (gpu.serial, one.generation): (
                    one.profile.decode(), one.start, tuple(ci.generation for ci in one.compute if ci.live)
                )
                for gpu in state.gpu[: state.gpus]
                for one in gpu.instances
                if one.live
            }  # fmt: skip

    def mode(self, gpu: int) -> tuple[bool, bool]:
        """MIG mode now and pending."""
        with self.state() as state:
            return bool(state.gpu[gpu].current), bool(state.gpu[gpu].pending)

    def instances(self, gpu: int) -> set[tuple[str, int, tuple[int, ...], int]]:
        """(profile name, start, slices of its compute instances ascending, number of the GPU instance)."""
        with self.state() as state:
            return {
                (one.profile.decode(), one.start, tuple(sorted(ci.slices for ci in one.compute if ci.live)), one.id)
                for one in state.gpu[gpu].instances
                if one.live
            }

    def add_process(
        self, gpu: int, pid: int, gi: int | None = None, ci: int | None = None,
        memory: int | None = 256 << 20, lists: Sequence[str] = ("compute",),
    ) -> None:  # fmt: skip
        """A process on a GPU, with MIG in its GPU and compute instance; ``memory`` bytes, None: not told."""
        with self.state() as state:
            free = next(process for process in state.gpu[gpu].processes if not process.live)
            free.live, free.pid, free.lists = 1, pid, sum(LISTS[name] for name in lists)
            free.gi, free.ci = NO_INSTANCE if gi is None else gi, NO_INSTANCE if ci is None else ci
            free.memory = 2**64 - 1 if memory is None else memory

    def remove_process(self, gpu: int, pid: int) -> None:
        """The process ends."""
        with self.state() as state:
            for process in state.gpu[gpu].processes:
                if process.pid == pid:
                    process.live = 0


@contextmanager
def fake(models: Sequence[str], **options: object) -> Iterator[FakeNvml]:
    """GPUs of these models (keys of ``MODELS`` in ``models.h``, such as ``A100-80GB``; ``V100`` has no MIG) instead of the real ones.

    ``root`` False: changes are refused; ``mig`` mode, of all or of each; ``activation`` of a new MIG mode: ``ok``,
    ``in_use``, ``reset_required``; ``old_uuid`` as drivers before R470 spelled them; ``missing`` functions the driver is too
    old for; ``refuse``: function -> status that it always answers. Afterwards the binding is as it was.
    """
    before = pynvml.nvmlLib, dict(pynvml._nvmlGetFunctionPointer_cache), pynvml._nvmlLib_refcount
    with tempfile.TemporaryDirectory(prefix="fake-nvml-") as folder:
        control = FakeNvml(Path(folder) / "state", models, options)
        loaded().fake_nvml_use(str(control.path).encode())
        _point_binding(loaded(), {}, 0)
        try:
            yield control
        finally:
            loaded().fake_nvml_use(None)
            _point_binding(*before)


def _point_binding(lib: ctypes.CDLL | None, functions: dict[str, object], references: int) -> None:
    """The binding keeps the library and its functions in globals."""
    pynvml.nvmlLib, pynvml._nvmlLib_refcount = lib, references
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml._nvmlGetFunctionPointer_cache.update(functions)
