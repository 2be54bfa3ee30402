"""Samples over time: nothing is lost, and the figures are those of the samples."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from execution_cases import PATIENCE_S
from stub_driver import TOLD, StubDriver, one_gpu_instance

from rltune.device_commands import watch
from rltune.devices.driver import Process
from rltune.devices.telemetry import COLUMNS, Sampler, Usage
from rltune.nouns.errors import InputError


def watched(driver: object, *words: str) -> int:
    """Exit status of the command with these options."""
    parser = argparse.ArgumentParser()
    watch.add_arguments(parser)
    args = parser.parse_args(words)
    args.driver = driver
    return watch.run(args)


class Clock:
    """Time that passes only when somebody waits, or a slow driver is asked."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


def slow(driver: StubDriver, clock: Clock, seconds: Callable[[int], float]) -> None:
    """Let sample number n of the driver take so long."""
    answer, count = driver.telemetry, iter(range(10**6))

    def telemetry(gpu: int):
        clock.now += seconds(next(count))
        return answer(gpu)

    driver.telemetry = telemetry  # type: ignore[method-assign]


def test_ticks_do_not_drift() -> None:
    """Samples of two machines could not be laid side by side if each sample moved all that follow."""
    clock, driver = Clock(), StubDriver()
    slow(driver, clock, lambda n: 0.03)
    sampler = Sampler(driver, 0.1, clock)
    times = [rows[0]["time_s"] for rows in sampler.run(5.0, clock.wait)]
    assert times == pytest.approx([0.1 * n for n in range(51)])
    assert (sampler.late, sampler.missed) == (0, 0)


def test_late_and_missed_samples_are_counted() -> None:
    """A gap that is not told looks like a steady GPU."""
    clock, driver = Clock(), StubDriver()
    slow(driver, clock, lambda n: 3.4 if n == 2 else 0.0)
    sampler = Sampler(driver, 1.0, clock)
    times = [rows[0]["time_s"] for rows in sampler.run(8.0, clock.wait)]
    assert times == pytest.approx([0, 1, 2, 5.4, 6, 7, 8])
    assert (sampler.late, sampler.missed) == (1, 2)


def test_ticks_after_the_end_are_not_missed() -> None:
    """A driver that hangs at the end must not be said to have cost samples that nobody asked for."""
    clock, driver = Clock(), StubDriver()
    slow(driver, clock, lambda n: 50.0 if n == 1 else 0.0)
    sampler = Sampler(driver, 1.0, clock)
    assert len(list(sampler.run(3.0, clock.wait))) == 2
    assert sampler.missed == 2


def test_file_has_every_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is measured is what is evaluated later: columns, counts and the last line are relied on by scripts."""
    driver = StubDriver(2, instances_of={1: (one_gpu_instance(1, "3g.40gb", 0),)})
    driver.processes_of[0] = (Process(1, None, None, None), Process(2, None, None, None))
    out = tmp_path / "samples.parquet"
    assert watched(driver, "--seconds", "0.2", "--interval", "0.05", "--out", str(out)) == 0
    table = pq.read_table(out)
    lines = capsys.readouterr().out.splitlines()
    assert tuple(table.column_names) == COLUMNS
    assert 2 <= table.num_rows <= 10 and f", {table.num_rows} rows; " in lines[-2] and lines[-1] == str(out)
    assert set(zip(*(table[name].to_pylist() for name in ("gpu", "instances", "processes")), strict=True)) == {
        (0, 0, 2),
        (1, 1, 0),
    }
    assert [path.name for path in tmp_path.iterdir()] == ["samples.parquet"]


def test_lost_gpu_leaves_empty_cells_and_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A watch over a night must not end because one GPU of eight died at midnight."""
    clock, driver = Clock(), StubDriver(2)
    slow(driver, clock, lambda n: driver.lose(1) or 0.0 if n == 5 else 0.0)
    sampler = Sampler(driver, 1.0, clock)
    rows = [row for sample in sampler.run(4.0, clock.wait) for row in sample if row["gpu"] == 1]
    assert [row["power_w"] for row in rows] == [250.0, 250.0, None, None, None]
    assert [row["instances"] for row in rows] == [0, 0, None, None, None]
    (note,) = sampler.notes()
    assert note.startswith("GPU 1: ") and "missing in 3 of 5 samples" in note and "GPU_IS_LOST 15" in note
    out = tmp_path / "lost.parquet"
    assert watched(driver, "--seconds", "0.05", "--interval", "0.05", "--out", str(out)) == 0
    assert pq.read_table(out).filter(ds.field("gpu") == 1)["power_w"].null_count > 0
    assert "GPU_IS_LOST" in capsys.readouterr().out


def rows_of(power: list[float | None], energy: list[int | None], step_s: float = 10.0) -> list[dict[str, object]]:
    pairs = enumerate(zip(power, energy, strict=True))
    return [{"time_s": n * step_s, "power_w": p, "energy_mj": e, "utilization_percent": 50} for n, (p, e) in pairs]


@pytest.mark.parametrize(
    ("power", "energy", "expected"),
    [
        # The counter sees what power readings miss.
        ([100.0, 100.0, 100.0], [0, 7_200_000, 14_400_000], (4.0, "energy counter", 20.0)),
        # Trapezoids: (100 + 200) / 2 W for 10 s, then (200 + 100) / 2 W for 10 s.
        ([100.0, 200.0, 100.0], [None, None, None], (3000 / 3600, "integrated power", 20.0)),
        # Lost for a while: the counter still knows, neighbouring readings of power do not.
        ([100.0, None, 100.0], [3_600_000, None, 7_200_000], (1.0, "energy counter", 20.0)),
        ([360.0, 360.0, None, 360.0], [None] * 4, (1.0, "integrated power", 10.0)),
        # The driver was loaded anew: what the counter lost is not taken from what it counted.
        ([None] * 4, [9_000_000, 9_360_000, 0, 360_000], (0.2, "energy counter", 20.0)),
        ([None, None], [None, None], None),
    ],
)
def test_energy_says_where_it_is_from(power: list, energy: list, expected: tuple | None) -> None:
    """An energy bill must neither invent what nobody measured nor lose what the counter knows."""
    usage = Usage(0)
    for row in rows_of(power, energy):
        usage.add(row)
    if expected is None:
        assert usage.energy is None and usage.mean_power_w is None
    else:
        assert usage.energy is not None and usage.energy[1] == expected[1]
        assert usage.energy[::2] == pytest.approx(expected[::2])


def test_means_leave_out_what_was_not_told() -> None:
    """Missing readings counted as zero would make a busy GPU look idle."""
    usage = Usage(0)
    for row in rows_of([300.0, None, 100.0], [None] * 3):
        usage.add(row)
    assert (usage.mean_power_w, usage.max_power_w, usage.mean_utilization_percent) == (200.0, 300.0, 50.0)


def test_parts_become_one_file_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long watch is one file in the end, with its samples in order and not a row group for every ten seconds."""
    monkeypatch.setattr(watch, "PART_S", 0.0)
    sampler, out = Sampler(StubDriver(2), 1.0), tmp_path / "day.parquet"
    with watch.Parts(out) as parts:
        for _ in range(12):
            parts.add(sampler.sample())
        assert len(parts.files) == 12 and not out.exists()
    times = pq.read_table(out)["time_s"].to_pylist()
    assert len(times) == 24 and times == sorted(times)
    assert pq.ParquetFile(out).num_row_groups == 1


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    """Samples of an earlier run, finished or killed, must not be overwritten or mixed with new ones."""
    out = tmp_path / "a[1].parquet"
    out.touch()
    with pytest.raises(InputError, match="exists"):
        watch.Parts(out)
    out.unlink()
    out.with_name(out.name + ".part-0001").touch()
    with pytest.raises(InputError, match="an earlier run was killed"):
        watch.Parts(out)
    with pytest.raises(InputError, match="there is no directory"):
        watch.Parts(tmp_path / "nowhere" / "a.parquet")
    for words in (("--interval", "0"), ("--interval", "nan"), ("--seconds", "-1")):
        with pytest.raises(InputError, match=f"{words[0]} .* above 0"):
            watched(StubDriver(), *words)


def test_full_disk_is_told_and_costs_no_earlier_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fills up overnight, the evening's samples must still be there."""
    monkeypatch.setattr(watch, "PART_S", 0.0)
    sampler, out = Sampler(StubDriver(), 1.0), tmp_path / "s.parquet"

    def refuse(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"), watch.Parts(out) as parts:
        parts.add(sampler.sample())
        monkeypatch.setattr(os, "fsync", refuse)
        parts.add(sampler.sample())
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet.part-0001"]
    assert pq.read_table(tmp_path / "s.parquet.part-0001").num_rows == 1


ENDLESS = """
import argparse, sys
sys.path.insert(0, sys.argv[1])
from stub_driver import StubDriver
from rltune.device_commands import watch
watch.PART_S = 0.1
parser = argparse.ArgumentParser()
watch.add_arguments(parser)
args = parser.parse_args(["--interval", "0.02", "--out", sys.argv[2]])
args.driver = StubDriver(2)
sys.exit(watch.run(args))
"""


def endless(out: Path) -> subprocess.Popen[str]:
    """A watch without end that has written two parts."""
    here = str(Path(__file__).parent)
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, here, str(out)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_S
    while not out.with_name(f"{out.name}.part-0002").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return process


def test_killed_watch_leaves_its_samples(tmp_path: Path) -> None:
    """A machine that crashes is the one whose samples are wanted most."""
    process = endless(tmp_path / "s.parquet")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    parts = sorted(tmp_path.glob("s.parquet.part-*"))
    assert len(parts) >= 2
    assert ds.dataset([str(part) for part in parts]).to_table().num_rows >= 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_it_ends_properly(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C is the usual end of a watch: the file must be whole, and the shell must not see a failure."""
    out = tmp_path / "s.parquet"
    process = endless(out)
    process.send_signal(number)
    printed = process.communicate(timeout=PATIENCE_S)[0].splitlines()
    assert process.returncode == 0 and printed[-1] == str(out)
    assert f" {pq.read_table(out).num_rows} rows; " in printed[-2]
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]


def test_missing_values_are_cells_without_a_value(tmp_path: Path) -> None:
    """A GPU that does not tell its temperature has none in the file, not zero degrees."""
    driver = StubDriver(told={0: replace(TOLD, temperature_c=None, missing={"temperature_c": 3})})
    out = tmp_path / "s.parquet"
    watched(driver, "--seconds", "0.05", "--interval", "0.05", "--out", str(out), "--quiet")
    table = pq.read_table(out)
    assert table["temperature_c"].null_count == table.num_rows > 0 and table["power_w"].null_count == 0
