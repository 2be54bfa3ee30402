"""A user who waits is told why, on standard error only; one who does not wait hears nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rltune.compiling import notice


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(notice, "time", made)
    monkeypatch.setattr(notice, "not_kept", set())
    return made


def compile_for(listener: notice.Compiling, clock: Clock, *seconds: float) -> None:
    """An outer function, and one inside it for each of the times."""
    listener.on_start(None)
    for taken in seconds:
        listener.on_start(None)
        clock.now += taken
        listener.on_end(None)
    listener.on_end(None)


def test_short_compiling_is_silent(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    listener = notice.Compiling()
    compile_for(listener, clock, 0.5, 0.5)
    compile_for(listener, clock, 0.5)
    assert capsys.readouterr() == ("", "")
    assert (listener.functions, listener.spent_s) == (5, 1.5)


def test_long_compiling_is_said_in_a_few_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    compile_for(notice.Compiling(), clock, *[1.0] * 40)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "compiling kernels (once; later runs start at once): 2 functions, 2 s",
        "compiling kernels (once; later runs start at once): 17 functions, 17 s",
        "compiling kernels (once; later runs start at once): 32 functions, 32 s",
        "compiled 41 functions in 40 s",
    ]


def test_many_short_stretches_do_not_fill_the_screen(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    listener = notice.Compiling()
    for _ in range(30):
        compile_for(listener, clock, 0.2)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_kernels_that_are_not_kept_are_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    notice.not_kept.add("module.kernel")
    compile_for(notice.Compiling(), clock, 3.0)
    assert capsys.readouterr().err.splitlines()[-1] == "compiled 2 functions in 3 s; 1 are not kept for the next run"


def test_a_terminal_shows_one_line_that_is_written_over(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "_on_terminal", lambda: True)
    compile_for(notice.Compiling(), clock, 1.5, 1.5)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.count("\r") == 1
    assert err.endswith("compiled 3 functions in 3 s\n")


def test_the_command_that_compiles_ahead_names_itself() -> None:
    command = [sys.executable, "-m", "rltune.warm", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 and "compile the kernels" in done.stdout
