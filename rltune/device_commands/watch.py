"""``python -m rltune.devices watch``: samples of every GPU on a steady clock, to the screen and to a Parquet file.

While it runs, samples go to complete Parquet files ``OUT.part-0001``, ``OUT.part-0002``, ... every `PART_S` seconds; at the end
they become OUT. A killed run leaves its parts: each can be read as it is, ``pyarrow.dataset.dataset(parts)`` reads all.
"""

from __future__ import annotations

import argparse
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from rltune.devices.telemetry import COLUMNS, Row, Sampler, Usage
from rltune.nouns.errors import InputError
from rltune.nouns.leftovers import whole_file

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

PART_S = 10.0
"""Seconds of samples that a killed run loses at most, besides the last one."""
ROWS_OF_GROUP = 1 << 16
"""Rows that a row group of the finished file has at least, but for the last: readers are slow on many small ones."""
GIB = 1024**3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--seconds", type=float, metavar="S", help="end after so long (default: at Ctrl-C or SIGTERM)")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S", help="seconds between samples (default 1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Parquet file for the samples")
    parser.add_argument("--quiet", action="store_true", help="no live display")


def run(args: argparse.Namespace) -> int:
    """Sample ``args.driver`` until told to end; 0. InputError for options that make no sense, or a disk that refuses."""
    for option, value in (("--seconds", args.seconds), ("--interval", args.interval)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{option} {value}: a number of seconds above 0 is needed")
    sampler = Sampler(args.driver, args.interval)
    usages = [Usage(identity.index) for identity in sampler.gpus]
    # A display that nobody sees would only fill a log.
    live = not args.quiet and sys.stderr.isatty()
    # Outermost, so that a signal does not end the joining of the parts either.
    with Stop() as stop, Parts(args.out) as parts, _display(sampler, live) as show:
        for rows in sampler.run(args.seconds, stop.wait):
            for usage, row in zip(usages, rows, strict=True):
                usage.add(row)
            parts.add(rows)
            show(rows)
    _report(sampler, usages, parts)
    return 0


def _report(sampler: Sampler, usages: list[Usage], parts: Parts) -> None:
    """Figures of each GPU, what is missing, and the file on the last line."""
    for usage in usages:
        print(_figures(usage))
    for note in sampler.notes():
        print(f"note: {note}")
    gaps = f"{sampler.missed} samples missed, {sampler.late} late"
    where = "" if parts.out is None else f", in {parts.out}"
    print(f"{sampler.samples} samples in {sampler.last_s:.1f} s, {parts.rows} rows; {gaps}{where}")
    if parts.out is not None:
        print(parts.out)


def _figures(usage: Usage) -> str:
    mean, most, busy = usage.mean_power_w, usage.max_power_w, usage.mean_utilization_percent
    power = "power unknown" if mean is None else f"power mean {mean:.1f} W, max {most:.1f} W"
    energy = "energy unknown"
    if usage.energy is not None:
        wh, source, covered_s = usage.energy
        energy = f"energy {wh:.3f} Wh in {covered_s:.1f} s ({source})"
    utilization = "utilisation unknown" if busy is None else f"utilisation mean {busy:.0f} %"
    return f"GPU {usage.gpu}: {power}; {energy}; {utilization}"


class Stop:
    """Ends a wait at SIGINT or SIGTERM, the first time politely: a second one ends the process as ever."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Stop:
        # A pipe, since a handler that only sets a flag does not end a sleep, and one that raises may tear a file in two.
        self._read, self._write = os.pipe()
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        os.write(self._write, b"!")
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> bool:
        """True as soon as the end was asked for, else False after so many seconds."""
        if not self.asked and seconds > 0:
            select.select([self._read], [], [], seconds)
        return self.asked

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()
        os.close(self._read)
        os.close(self._write)


class Parts:
    """Rows to ``out`` (None: nowhere), by way of complete Parquet files beside it.

    On leaving, whatever the reason, rows that wait become a part; without an error all parts become ``out``.
    """

    def __init__(self, out: Path | None) -> None:
        self.out, self.rows = out, 0
        self.files: list[Path] = []
        self._waiting: list[Row] = []
        self._since = time.monotonic()
        if out is None:
            return
        schema()  # loads pyarrow, which would make a sample late
        if not out.parent.is_dir():
            raise InputError(f"--out {out}: there is no directory {out.parent}; make it first")
        left = sorted(out.parent.glob(f"{_escaped(out.name)}.part-*"))
        if left:
            raise InputError(
                f"--out {out}: an earlier run was killed and left {left[0].name} and {len(left) - 1} more; "
                "read and remove them, or choose another file"
            )
        if out.exists():
            raise InputError(f"--out {out}: exists; remove it, or choose another file")

    def __enter__(self) -> Parts:
        return self

    def add(self, rows: list[Row]) -> None:
        """Take in rows; a part is written when the last one is `PART_S` old."""
        self.rows += len(rows)
        if self.out is None:
            return
        self._waiting += rows
        if time.monotonic() - self._since >= PART_S:
            self._flush()

    def _flush(self) -> None:
        # Also without rows: a file without samples is one with the right columns.
        if self.out is None or (not self._waiting and self.files):
            return
        with _disk(self.out):
            path = self.out.with_name(f"{self.out.name}.part-{len(self.files) + 1:04d}")
            _write(path, iter([_table_of(self._waiting)]))
        self.files.append(path)
        self._waiting, self._since = [], time.monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        if self.out is None or error is not None:
            return
        with _disk(self.out):
            _write(self.out, _joined(self.files))
            for path in self.files:
                path.unlink()


def _escaped(name: str) -> str:
    """For glob: brackets and stars in a file's name are meant as they are."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


@contextmanager
def _disk(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"--out {out}: cannot be written ({reason}); parts written before remain beside it") from None


def schema() -> pa.Schema:
    """Types of `COLUMNS`; every value but time and GPU may be missing."""
    # It takes half a second to load: who writes no file does without.
    import pyarrow as pa
    import pyarrow.parquet

    kinds: dict[str, Any] = {
        "time_s": pa.float64(), "unix_s": pa.float64(), "gpu": pa.int32(), "uuid": pa.string(), "name": pa.string(),
        "utilization_percent": pa.int32(), "memory_used_bytes": pa.int64(), "power_w": pa.float64(),
        "temperature_c": pa.int32(), "energy_mj": pa.int64(), "instances": pa.int32(), "processes": pa.int32(),
    }  # fmt: skip
    return pa.schema([pa.field(name, kinds[name]) for name in COLUMNS])


def _table_of(rows: list[Row]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema())


def _joined(files: list[Path]) -> Iterator[pa.Table]:
    """The parts in order, gathered into tables of `ROWS_OF_GROUP` rows: a day of samples need not be in memory at once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    gathered: list[pa.Table] = []
    for path in files:
        gathered.append(pq.read_table(path))
        if sum(table.num_rows for table in gathered) >= ROWS_OF_GROUP:
            yield pa.concat_tables(gathered)
            gathered = []
    if gathered:
        yield pa.concat_tables(gathered)


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    """All of the file or nothing under its name, also after a power cut."""
    import pyarrow.parquet as pq

    with whole_file(path) as partial, open(partial, "wb") as file:
        with pq.ParquetWriter(file, schema(), compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _display(sampler: Sampler, live: bool) -> Iterator[Callable[[list[Row]], None]]:
    """The latest rows on standard error, where somebody looks."""
    if not live:
        yield lambda rows: None
        return
    # Rich takes a while to load, and scripts do without.
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False) as screen:
        yield lambda rows: screen.update(_latest(sampler, rows), refresh=True)


def _latest(sampler: Sampler, rows: list[Row]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.caption = (
        f"{rows[0]['time_s'] if rows else 0:.1f} s, {sampler.samples} samples, {sampler.missed} missed, "
        f"{sampler.late} late; {sum(sampler.unread.values())} values not told; Ctrl-C ends"
    )
    for head in ("GPU", "name", "busy %", "memory GiB", "power W", "°C", "instances", "processes"):
        table.add_column(head, justify="left" if head == "name" else "right")
    for row in rows:
        memory = row["memory_used_bytes"]
        values = (row["utilization_percent"], None if memory is None else memory / GIB, row["power_w"])
        counts = (row["temperature_c"], row["instances"], row["processes"])
        cells = ["?" if v is None else f"{v:.1f}" if isinstance(v, float) else str(v) for v in (*values, *counts)]
        table.add_row(str(row["gpu"]), row["name"], *cells)
    return table
