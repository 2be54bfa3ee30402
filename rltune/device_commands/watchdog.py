"""A driver that does not answer cannot be interrupted: say so, and end. What is on disk settles the rest."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rltune.devices.driver import Driver
from rltune.nouns.errors import InputError


@contextmanager
def watched(timeout_s: float) -> Iterator[Callable[[Driver | None], None]]:
    """End the process with status 4 if opening a driver, or one call of it, takes longer.

    Gives a function that takes the driver once it is open; None: whoever asks watches himself from now on.
    """
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise InputError(f"--call-timeout {timeout_s}: a number of seconds above 0 is needed")
    done = threading.Event()
    calls: list[dict[int, tuple[str, float]]] = [{0: ("to be opened", time.monotonic())}]

    def watch() -> None:
        while not done.wait(min(timeout_s / 4, 1.0)):
            now = time.monotonic()
            late = [name for name, begun in list(calls[0].values()) if now - begun > timeout_s]
            if late:
                print(
                    f"error: the driver has not answered {late[0]} for {timeout_s:g} s; look at the kernel's log (dmesg); "
                    "if something was being changed, the next apply, or `recover`, settles it",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
                # A thread that hangs in the driver lets no process end in any gentler way.
                os._exit(4)

    def hand_over(driver: Driver | None) -> None:
        calls[0] = {} if driver is None else driver.calling

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield hand_over
    finally:
        done.set()
