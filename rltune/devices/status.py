"""One table from every NVML status to what it means, whether to try again, and what to tell the person.

Numbers and names are ``nvmlReturn_t`` of NVIDIA's ``nvml.h``; what to do about them is experience (driver notes, issue threads
of the tools that manage MIG).
"""

from __future__ import annotations

from typing import NamedTuple

from rltune.nouns.errors import InputError


class Status(NamedTuple):
    """``name`` as in ``nvml.h`` without its prefix; ``meaning`` and ``remedy`` for people; ``retry``: may pass by itself."""

    name: str
    meaning: str
    remedy: str
    retry: bool = False


SUCCESS = 0
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
IN_USE = 19
INSUFFICIENT_RESOURCES = 23
ARGUMENT_VERSION_MISMATCH = 25
UNKNOWN = 999

STATUSES: dict[int, Status] = {
    0: Status("SUCCESS", "done", "nothing to do"),
    1: Status("UNINITIALIZED", "NVML was not initialised, or was shut down", "open the device again; if it stays, report it"),
    2: Status("INVALID_ARGUMENT", "NVML does not accept an argument: a stale handle, or a placement that is not legal",
              "read the GPU anew (show) and plan again"),
    3: Status("NOT_SUPPORTED", "not supported by this GPU in its present mode",
              "MIG is off (apply --mig-mode), it is a vGPU guest, or there is no such profile (show --profiles)"),
    4: Status("NO_PERMISSION", "the user may not do that", "run as root, or ask the administrator for the MIG capabilities"),
    5: Status("ALREADY_INITIALIZED", "NVML was initialised already", "report it: this is a mistake of ours"),
    6: Status("NOT_FOUND", "there is no such GPU, instance or process (any more)", "read the GPU anew (show) and plan again"),
    7: Status("INSUFFICIENT_SIZE", "more was there than the answer had room for: it changed meanwhile", "try again", True),
    8: Status("INSUFFICIENT_POWER", "the GPU's external power cables are not attached",
              "attach the power cables, then reboot"),
    9: Status("DRIVER_NOT_LOADED", "the NVIDIA driver is not loaded", "load it (modprobe nvidia), or rehearse with "
              "--device simulated:a100-80gb"),
    10: Status("TIMEOUT", "the driver did not finish in time", "look at the kernel's log (dmesg), then try again", True),
    11: Status("IRQ_ISSUE", "the kernel has trouble with the GPU's interrupts", "look at the kernel's log (dmesg); reboot"),
    12: Status("LIBRARY_NOT_FOUND", "libnvidia-ml.so.1 is not there: no NVIDIA driver is installed",
               "install the driver, or rehearse with --device simulated:a100-80gb"),
    13: Status("FUNCTION_NOT_FOUND", "the installed driver is too old for this call", "install a newer NVIDIA driver (R470 or later)"),
    14: Status("CORRUPTED_INFOROM", "the GPU's infoROM is damaged", "drain this GPU and have it replaced"),
    15: Status("GPU_IS_LOST", "the GPU fell off the bus or cannot be reached", "drain and reboot this machine; see the kernel's log"),
    16: Status("RESET_REQUIRED", "the GPU must be reset first", "end what runs on it, nvidia-smi --gpu-reset -i <GPU>, then apply again"),
    17: Status("OPERATING_SYSTEM", "the operating system (cgroups, container) blocked it",
               "run outside the container, or grant it the GPU's device and capability files"),
    18: Status("LIB_RM_VERSION_MISMATCH", "libnvidia-ml and the loaded kernel driver are of different versions",
               "reboot, or reload the driver after its update"),
    19: Status("IN_USE", "something still uses it: a process, a live compute instance, or a monitoring agent with a handle",
               "end it (show lists processes; stop DCGM or nvidia-persistenced), then apply again", True),
    20: Status("MEMORY", "the machine is out of memory", "free memory, then try again"),
    21: Status("NO_DATA", "the driver has no data", "try again a moment later", True),
    22: Status("VGPU_ECC_NOT_SUPPORTED", "vGPU does not go with ECC here", "turn ECC off, or do without vGPU"),
    23: Status("INSUFFICIENT_RESOURCES", "no room: the GPU is full, or what is free is fragmented",
               "plan anew (show lists what is there); instances that nobody uses can go"),
    24: Status("FREQ_NOT_SUPPORTED", "the GPU does not have that frequency", "report it: we set no frequencies"),
    25: Status("ARGUMENT_VERSION_MISMATCH", "the driver does not know this version of a structure",
               "install the nvidia-ml-py that goes with the driver"),
    26: Status("DEPRECATED", "the driver no longer has this call", "install the nvidia-ml-py that goes with the driver"),
    27: Status("NOT_READY", "the system is not ready", "try again a moment later", True),
    28: Status("GPU_NOT_FOUND", "there are no NVIDIA GPUs", "check lspci; or rehearse with --device simulated:a100-80gb"),
    29: Status("INVALID_STATE", "the GPU's state does not allow that", "read the GPU anew (show) and plan again"),
    30: Status("RESET_TYPE_NOT_SUPPORTED", "this kind of reset is not supported", "reboot"),
    999: Status("UNKNOWN", "an internal error of the driver", "look at the kernel's log (dmesg); reset the GPU or reboot"),
}  # fmt: skip
"""NVML status -> what it means."""


def status(code: int) -> Status:
    """The row of a status; one that `STATUSES` does not have is said to be so."""
    found = STATUSES.get(code)
    return found or Status(
        f"STATUS_{code}", "a status that this version does not know", "see nvml.h of the driver; report it"
    )


class DeviceError(InputError):
    """A call that NVML, or the simulated device, refused.

    ``code`` the NVML status; ``call`` the NVML function; ``where`` which GPU or instance. ``exit_status`` of commands: 2, nothing
    was changed.
    """

    exit_status = 2

    def __init__(self, code: int, call: str, where: str = "") -> None:
        self.code, self.call, self.where = code, call, where
        row = status(code)
        super().__init__(f"{where + ': ' if where else ''}{call}: {row.name} ({code}): {row.meaning}; {row.remedy}")

    @property
    def retry(self) -> bool:
        """Whether the same call may succeed a moment later."""
        return status(self.code).retry
