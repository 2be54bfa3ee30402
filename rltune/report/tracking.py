"""Figures of a training while it goes on: TensorBoard always, Weights & Biases and MLflow by ``track=``.

Event files lie in the run directory (``tensorboard --logdir runs``), and so do W&B's files and, unless MLFLOW_TRACKING_URI names a
server, MLflow's database. Only what is asked for is imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from rltune.nouns.errors import InputError

TRACKERS = ("wandb", "mlflow")
TENSORBOARD = "tensorboard"
"""Folder of the event files in a run directory."""
PROJECT = "rltune"
Log = Callable[[int, Mapping[str, float]], None]
"""Takes an epoch, from 1, and figures by name."""


def check_tracking(track: Any) -> list[str]:
    """The trackers that ``track=`` asks for; InputError for one that there is not, or that is not installed."""
    asked = [] if track is None else [track] if isinstance(track, str) else list(track)
    for name in asked:
        if name not in TRACKERS:
            raise InputError(
                f"track={name!r} is unknown; known are {', '.join(TRACKERS)} (TensorBoard is always written)"
            )
        if find_spec(name) is None:
            raise InputError(f"track={name} needs the package {name}: pip install 'rltune[{name}]'")
    return list(dict.fromkeys(asked))


@contextmanager
def tracking(
    folder: Path, name: str, track: Sequence[str], options: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterator[Log]:
    """What logs an epoch everywhere; closed on leaving, also with an error.

    Args:
        folder: the run directory; event files of a run that goes on in it are gone on with.
        name: of the run.
        track: of `check_tracking`.
        options: of the run, plain values, for W&B and MLflow.
        rows: the learning curve of the epochs that the run has already; written where they are not there yet.
    """
    there = (folder / TENSORBOARD).is_dir()
    with ExitStack() as stack:
        logs = [stack.enter_context(events(folder / TENSORBOARD, len(rows) + 1 if there else None))]
        logs += [stack.enter_context(OPENERS[each](folder, name, options)) for each in track]

        def log(epoch: int, figures: Mapping[str, Any]) -> None:
            numbers = {
                key: float(value) for key, value in figures.items() if isinstance(value, int | float) and key != "epoch"
            }
            for each in logs:
                each(epoch, numbers)

        if not there:
            for row in rows:
                log(int(row["epoch"]), row)
        yield log


@contextmanager
def events(folder: Path, purge_from: int | None) -> Iterator[Log]:
    """TensorBoard's event files; ``purge_from``: epoch from which earlier files of the folder count no more.

    Not by `tensorboardX.SummaryWriter`: it writes in a thread of its own, which dies of a full disk, and waits for it for ever.
    """
    folder.mkdir(exist_ok=True)
    # The name has the second alone; a training that goes on must not write over what it had.
    writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")

    def write(step: int, **what: Any) -> None:
        writer.write_event(Event(wall_time=time.time(), step=step, **what))

    def log(epoch: int, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        write(epoch, summary=Summary(value=values))
        writer.flush()

    if purge_from is not None:
        write(purge_from, session_log=SessionLog(status=SessionLog.START))
    try:
        yield log
    finally:
        writer.close()


@contextmanager
def wandb_run(folder: Path, name: str, options: Mapping[str, Any]) -> Iterator[Log]:
    """Weights & Biases; WANDB_MODE=offline needs no account (``wandb sync`` sends it later)."""
    import wandb

    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=name, dir=str(folder), config=dict(options),
            settings=wandb.Settings(silent=True),
        )  # fmt: skip
    except Exception as error:
        # Its errors have no common class.
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"track=wandb: {reason}; log in with `wandb login`, or set WANDB_MODE=offline") from None
    try:
        yield lambda epoch, figures: run.log(dict(figures), step=epoch)
    finally:
        run.finish()


@contextmanager
def mlflow_run(folder: Path, name: str, options: Mapping[str, Any]) -> Iterator[Log]:
    """MLflow: the server of MLFLOW_TRACKING_URI, else a database in the run directory."""
    import mlflow

    try:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').absolute()}")
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        mlflow.start_run(run_name=name)
        mlflow.log_params(plain(options))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"track=mlflow: {reason}; check MLFLOW_TRACKING_URI, or unset it for a local database"
        ) from None
    try:
        yield lambda epoch, figures: mlflow.log_metrics(dict(figures), step=epoch)
    finally:
        mlflow.end_run()


OPENERS: dict[str, Callable[..., Any]] = {"wandb": wandb_run, "mlflow": mlflow_run}


def plain(options: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested options by dotted name, as MLflow takes them: texts of at most 500 characters."""
    out: dict[str, str] = {}
    for key, value in options.items():
        dotted = f"{above}{key}"
        out |= plain(value, f"{dotted}.") if isinstance(value, Mapping) and value else {dotted: str(value)[:500]}
    return out
