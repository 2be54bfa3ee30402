"""Scenes run side by side, each a process of `rltune.evaluate`; a finished one is kept and not run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rltune.report.console import say
from rltune.report_commands.scenes import Planned

EVALUATE = (sys.executable, "-m", "rltune.evaluate")
POLL_S = 0.5
PATIENCE_S = 20.0
"""For an evaluation that was told to end."""
Update = Callable[..., None]


@dataclass
class Running:
    """One process and its log."""

    scene: Planned
    process: subprocess.Popen[bytes]
    log: Path
    begun_s: float = field(default_factory=time.monotonic)

    def last_line(self) -> str:
        """The last whole line of its log: how far it is."""
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1].strip() if lines else "begins"


def run_scenes(scenes: Sequence[Planned], folder: Path, jobs: int, update: Update) -> list[str]:
    """Run what is not finished in ``folder``, ``jobs`` at a time; a sentence for each that failed. ``update`` as of `progress_bar`.

    KeyboardInterrupt ends the processes; what was finished stays.
    """
    waiting = [scene for scene in scenes if not is_finished(scene, folder)]
    update(len(scenes) - len(waiting), f"{len(scenes) - len(waiting)} are there already")
    running: list[Running] = []
    failed: list[str] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(waiting.pop(0), folder))
            time.sleep(POLL_S)
            for each in [one for one in running if one.process.poll() is not None]:
                running.remove(each)
                if each.process.returncode:
                    failed.append(f"{each.scene.told.title}: failed ({_why(each)}); its log: {each.log}")
                    say(f"note: {failed[-1]}")
                update(1, _state(running))
            update(0, _state(running))
    finally:
        _end(running)
    return failed


def is_finished(scene: Planned, folder: Path) -> bool:
    return (folder / scene.directory / "summary.json").is_file()


def _start(scene: Planned, folder: Path) -> Running:
    log = folder / f"{scene.directory}.log"
    words = [*scene.words, f"runs={folder}", f"name={scene.directory}"]
    with log.open("wb") as out:
        # In a session of its own: an interrupt of the terminal is told to it by us, once.
        process = subprocess.Popen(
            [*EVALUATE, *words], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": "1", **os.environ}, start_new_session=True,
        )  # fmt: skip
    return Running(scene, process, log)


def _state(running: Sequence[Running]) -> str:
    """How far each is."""
    parts = []
    for each in running:
        line = each.last_line()
        told = line.split("rows:", 1)[1].strip() if "rows:" in line else f"{time.monotonic() - each.begun_s:.0f} s gone"
        parts.append(f"{each.scene.name}: {told}")
    return "; ".join(parts)


def _why(ended: Running) -> str:
    """Its error line, else its last line."""
    lines = [line for line in ended.log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"status {ended.process.returncode}"])[-1].removeprefix("error: ")


def _end(running: Sequence[Running]) -> None:
    """End what still runs; an evaluation that is interrupted removes its own directory."""
    for each in running:
        each.process.send_signal(signal.SIGINT)
    for each in running:
        try:
            each.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            each.process.kill()
