"""A driver that does not answer cannot be interrupted: say so, and end. What is on disk settles the rest."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rltune.devices.driver import Driver
from rltune.errors import InputError


@contextmanager
def watched(driver: Driver, timeout_s: float) -> Iterator[None]:
    """End the process with status 4 if one call of the driver takes longer."""
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise InputError(f"--call-timeout {timeout_s}: a number of seconds above 0 is needed")
    done = threading.Event()

    def watch() -> None:
        while not done.wait(min(timeout_s / 4, 1.0)):
            now = time.monotonic()
            late = [name for name, begun in list(driver.calling.values()) if now - begun > timeout_s]
            if late:
                print(
                    f"error: the driver has not answered {late[0]} for {timeout_s:g} s; look at the kernel's log (dmesg); "
                    "if something was being changed, the next apply, or `recover`, settles it",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                # A thread that hangs in the driver lets no process end in any gentler way.
                os._exit(4)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
