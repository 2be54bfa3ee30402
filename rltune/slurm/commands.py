"""Slurm's commands as a person would type them, and their errors as one line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rltune.nouns.errors import RunError

DOWN = ("Unable to contact slurm controller", "Connection refused", "Socket timed out", "Zero Bytes were transmitted",
        "controller not responding", "Slurm temporarily unable")  # fmt: skip
CHANGES = (("scontrol", "update"), ("scontrol", "hold"), ("scontrol", "release"))
DENIED = ("Access/permission denied", "Invalid user id", "Only user root")


class SlurmError(RunError):
    """A command of Slurm failed; the message is one line. ``down``: its controller does not answer, another try may do."""

    down = False


class Unreachable(SlurmError):
    """The controller does not answer."""

    down = True


class NoJson(SlurmError):
    """This Slurm does not write JSON (before 21.08, or without its plug-in)."""


class JobRefused(SlurmError):
    """This job could not be changed: it started, ended or was cancelled meanwhile, or Slurm does not want the value."""


@dataclass(frozen=True, slots=True)
class Slurm:
    """Commands of Slurm, found on PATH. ``timeout_s``: of each. ``conf``: slurm.conf; None: where Slurm looks for it."""

    timeout_s: float = 30.0
    conf: str | None = None

    def run(self, *words: str) -> str:
        """Standard output of a command. Raises `SlurmError` (`Unreachable`, `JobRefused`)."""
        # Lists of array tasks in full; no colours; a session of its own: Ctrl-C is for us.
        env = {**os.environ, "SLURM_BITSTR_LEN": "0", "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
        env |= {"SLURM_CONF": self.conf} if self.conf else {}
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, errors="replace", env=env, timeout=self.timeout_s,
                start_new_session=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except FileNotFoundError:
            raise SlurmError(
                f"{words[0]} is not on PATH: Slurm's client commands are needed (Debian, Ubuntu: apt install slurm-client)"
            ) from None
        except subprocess.TimeoutExpired as error:
            told = " ".join((error.stderr or b"").decode(errors="replace").split())
            raise Unreachable(
                f"{words[0]} did not answer within {self.timeout_s:g} s ({told or 'no message; is slurmctld alive?'})"
            ) from None
        except OSError as error:
            raise SlurmError(f"{words[0]} cannot be run ({error.strerror})") from None
        if done.returncode != 0:
            raise _error(words, " ".join((done.stderr or done.stdout).split()))
        return done.stdout

    def json(self, *words: str) -> Any:
        """Standard output of a command as JSON."""
        try:
            text = self.run(*words)
        except (Unreachable, JobRefused):
            raise
        except SlurmError as error:
            if "json" not in str(error).partition(":")[2].lower():
                raise
            raise NoJson(str(error)) from None
        try:
            return json.loads(text)
        except ValueError:
            raise NoJson(f"{' '.join(words)} gave no JSON") from None

    def update(self, job: str, *settings: str) -> None:
        """``scontrol update JobId=... Name=value ...``"""
        self.run("scontrol", "update", f"JobId={job}", *settings)

    def hold(self, job: str) -> None:
        """Hold a job, as an administrator does."""
        self.run("scontrol", "hold", job)

    def release(self, job: str) -> None:
        """Release a held job; its priority is Slurm's own again."""
        self.run("scontrol", "release", job)


def _error(words: Sequence[str], told: str) -> SlurmError:
    command = " ".join(words)
    if any(each in told for each in DOWN):
        return Unreachable(f"Slurm's controller does not answer ({command}: {told or 'no message'})")
    if any(each in told for each in DENIED):
        return SlurmError(f"{command}: {told}; run as SlurmUser, root or a Slurm operator, or use depth=advise")
    if words[:2] in CHANGES:
        return JobRefused(f"{command}: {told}")
    return SlurmError(f"{command}: {told or 'failed without a message'}")
