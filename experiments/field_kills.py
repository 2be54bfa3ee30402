"""Kills and damage in the field: adapters killed beside foreign instances, swapped cards and resets; damaged fleet journals;
trainings killed at random instants and gone on with.

OMP_NUM_THREADS=1 python experiments/field_kills.py [devices] [trainings] [--quick] [--rows] [--adapters N] [--journals N]
    [--trainings N]

Adds its counts to field_cases.json beside the other results (keys ``kills`` and ``journals``, and a row a kind), and writes
field_kills.json with all of them; a part that is not named stays as it was. A row's ``before`` is what version 282b360 did, as
it was seen; ``ok``: its tests pass now.
No GPU: the stand-in of `experiments/devices.py` (tests/devices/fake_nvml) keeps the state of MIG GPUs as hardware would; what is
foreign is known by a counter of creations in that state, which the adapter does not see.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "devices"), str(ROOT / "tests" / "rl")]

from fake_nvml import fake  # noqa: E402
from field_cases import table  # noqa: E402
from field_trials import GPUS, MODEL, damage_journals, kill_adapters  # noqa: E402

RESULTS = ROOT / "experiments" / "results"
RECORD = RESULTS / "field_cases.json"
ADAPTERS, JOURNALS, TRAININGS = 3000, 2000, 500
PATIENCE_S = 2100.0
"""Trainings are killed no longer than this."""
SEED = 15
FIELD, SERVING = "tests/devices/test_field.py", "tests/devices/test_serving_field.py"
ONLINE, JOURNAL = "tests/mig/test_online_journal.py", "tests/devices/test_journal.py"
CUT_OFF, CHECKPOINTS, TRAINING = (f"tests/rl/test_{name}.py" for name in ("resuming", "checkpoints", "training"))
ROWS = (
    (
        "B.1 recover and an instance that somebody else made in the place of ours",
        "destroyed; the report said: exactly the state before",
        "left alone and named",
        f"{FIELD}::test_recover_leaves_an_instance_made_in_the_place_of_its_own",
    ),
    (
        "B.1 recover and an instance that somebody else made elsewhere on the GPU",
        "left alone, but the report said: exactly the state before",
        "left alone and named",
        f"{FIELD}::test_recover_names_what_somebody_made_elsewhere",
    ),
    (
        "B.1 recover and an instance that an adapter under another state directory kept for itself",
        "destroyed; the report said: exactly the state before",
        "left alone and named: the GPU's lock says who changed it last",
        f"{FIELD}::test_what_another_journal_took_over_is_not_undone",
    ),
    (
        "B.1 random kills, with foreign instances, other journals, swapped cards and resets meanwhile",
        "not tried",
        "nothing foreign touched, every report true (counts: kills)",
        f"{FIELD}::test_random_kills_beside_foreign_instances",
    ),
    (
        "B.2 a GPU reset between a kill and its recovery",
        "an untouched neighbour was gone, and the report said: exactly the state before; one instance was made again",
        "told as a reset; nothing is made again, as after a reboot",
        f"{FIELD}::test_after_a_reset_nothing_is_made_again",
    ),
    (
        "B.2 a reset, after which somebody made instances in the same places",
        "taken for our own",
        "told apart by the GPU's energy counter, which begins anew; left alone",
        f"{FIELD}::test_a_reset_that_somebody_filled_again_is_told_by_the_energy_counter",
    ),
    (
        "B.2 claims after a reset",
        "stayed, on instances that were gone or somebody else's later ones",
        "end with their instance, with and without an open transaction",
        f"{FIELD}::test_a_claim_ends_with_its_instance",
    ),
    (
        "B.3 two cards swapped between two starts of the fleet",
        "a lease moved to the other card; its release destroyed the other tenant's instance",
        "bound by UUID: leases and instances stay",
        f"{SERVING}::test_leases_stay_with_their_cards",
    ),
    (
        "B.4 a GPU is lost while the fleet serves",
        "every later request was refused, and so was a restart",
        "set aside and told; the others go on, a restart too; used again when it is back",
        f"{SERVING}::test_one_lost_gpu_stops_no_other",
    ),
    (
        "B.4 a lost GPU with an open transaction",
        "recover stopped at it: later ones were not settled",
        "all others are settled, and the lost one is told",
        f"{FIELD}::test_one_that_cannot_be_settled_does_not_stop_the_others",
    ),
    (
        "B.5 one NOT_SUPPORTED while compute-instance profiles are read",
        "at 2 of 139 calls a list without the instance's profile was kept for good",
        "believed when given twice in a row, and no incomplete list is kept",
        f"{FIELD}::test_no_list_read_amid_errors_is_kept",
    ),
    (
        "B.6 mig-parted's all-balanced with device-filter on simulated GPUs (case 16)",
        "refused: the driver does not tell the model of GPU 0",
        "each GPU by its model; RTX PRO 6000 with +gfx, -me, +me.all",
        f"{FIELD}::test_a_configuration_by_model_can_be_rehearsed",
    ),
    (
        "C.1 a training that is killed (SIGKILL) at any instant",
        "all of it was lost: the only checkpoint was written at the end",
        "at most the epochs since the last checkpoint (checkpoint_every=5); resumed, it ends with the curve and policy of a "
        "run that nobody touched (counts: kills)",
        f"{CUT_OFF}::test_killed_trainings_come_to_the_same_end",
    ),
    (
        "C.1 SIGTERM (a time limit of Slurm) or Ctrl-C during a training",
        "nothing was kept",
        "the last whole epoch is saved; one line with the command that goes on; status 143 or 130",
        f"{CHECKPOINTS}::test_whatever_ends_a_training_leaves_what_it_has",
    ),
    (
        "C.1 resume= of a training that was cut off",
        "refused: there was nothing to go on from",
        "found by the name it was to have, in its hidden directory, which it goes on in",
        f"{CHECKPOINTS}::test_a_run_that_was_cut_off_is_found_by_its_name",
    ),
    (
        "C.1 resume= of a finished training",
        "went on with fresh episodes and random streams",
        "goes on exactly: as if it had been trained in one go",
        f"{TRAINING}::test_resuming_goes_on_where_the_run_stopped",
    ),
    (
        "C.1 a checkpoint that is damaged or half-written",
        "not tried: there was one, as pickles without checksums",
        "told by its checksum; the one before is taken",
        f"{CHECKPOINTS}::test_the_one_before_a_damaged_one_is_taken",
    ),
    (
        "C.1 a checkpoint and a power cut",
        "not synchronised",
        "on disk before it gets its name",
        f"{CHECKPOINTS}::test_a_file_is_on_disk_before_it_has_its_name",
    ),
    (
        "C.1 a full disk while a training saves",
        "the training was lost",
        "one line; the last good checkpoint stays; status 1",
        f"{CHECKPOINTS}::test_a_full_disk_at_a_signal_is_told",
    ),
    (
        "C.1 a worker that samples dies",
        "1,862 of 2,000 epochs sampled nothing, and the run ended as a success that said: nothing learned",
        "waited for until Ray has started it again; after 180 s without a step the run ends with status 1, resumable",
        f"{CUT_OFF}::test_an_epoch_that_sampled_nothing_is_no_epoch",
    ),
    (
        "C.2 the fleet's journal and a power cut",
        "never synchronised: 0 fsync for an accepted request",
        "synchronised before the answer, once for all lines that came together",
        f"{ONLINE}::test_it_is_on_disk_before_it_is_answered",
    ),
    (
        "C.2 an altered or lost line in the middle of the fleet's journal",
        "gone on with: a tenant was another, or its lease forgotten",
        "refused with its line: a checksum a line, chained",
        f"{ONLINE}::test_a_middle_line_that_is_not_as_written_is_refused",
    ),
    (
        "C.2 the last record whole, its newline lost",
        "cut off: an answered request was forgotten",
        "kept",
        f"{ONLINE}::test_a_last_record_without_its_newline_is_kept",
    ),
    (
        "C.2 a journal of many events",
        "grew for ever, and every restart replayed all of it",
        "replaced by one line with the state every 20,000 events, atomically",
        f"{ONLINE}::test_a_shortened_journal_is_the_same_fleet",
    ),
    (
        "C.2 fleet journals damaged at random",
        "not tried",
        "refused or exact (counts: journals)",
        f"{FIELD}::test_damaged_fleet_journals_are_refused_or_exact",
    ),
    (
        "C.3 the hidden directory of a run that was killed",
        "never mentioned again",
        "named at the next start; run and profile remove it with --remove-partial",
        "tests/devices/test_run_command.py::test_a_killed_run_takes_its_tasks_along",
    ),
    (
        "D damaged rows of the adapter's SQLite journal",
        "JSONDecodeError; an altered row (3g made 2g) was recovered to",
        "one line with row and remedy; rows have checksums",
        f"{JOURNAL}::test_a_damaged_row_is_told",
    ),
    (
        "D a tenant's name of a megabyte",
        "accepted, and written to the journal with every request",
        "refused in one short line; a line of the protocol has at most 4,096 characters",
        f"{ONLINE}::test_names_of_a_megabyte",
    ),
    (
        "D pickles under resume=, whole or truncated",
        "executed without a word; a truncated one ended in a traceback (as reported)",
        "never read: checkpoints are arrays and JSON; those of earlier versions are refused in one line",
        f"{CHECKPOINTS}::test_pickles_are_never_read",
    ),
    (
        "D a truncated or foreign file under policy= and checkpoint=",
        "refused in one line; nothing was executed",
        "the same",
        "tests/rl/test_policy_file.py::test_other_files_are_refused_in_one_line_that_names_them",
    ),
    (
        "D a full disk under the adapter's journal",
        "told as: cannot rollback - no transaction is active",
        "told as: the disk is full",
        f"{JOURNAL}::test_a_full_disk_is_told_as_a_full_disk",
    ),
    (
        "D a list of 50,000 tasks",
        "7.5 s on two loaded cores (read 6.1, programs 0.8, planner's table 0.6); 36 s as reported",
        "4.0 s on the same (3.2, 0.2, 0.7)",
        "tests/devices/test_tasks_file.py::test_many_tasks_look_each_thing_up_once",
    ),
)
"""Kind, what 282b360 did, what is done now, the test."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of it, and nothing is written")
    parser.add_argument("--rows", action="store_true", help="only the rows: run their tests, and write how they ended")
    parser.add_argument("--adapters", type=int, default=ADAPTERS, metavar="N", help="kills of adapters")
    parser.add_argument("--journals", type=int, default=JOURNALS, metavar="N", help="damaged journals")
    parser.add_argument("--trainings", type=int, default=TRAININGS, metavar="N", help="kills of trainings")
    parser.add_argument("parts", nargs="*", metavar="PART", help="devices, trainings; default: all")
    options = parser.parse_args()
    if options.rows:
        merge(RECORD, rows=rows())
        return
    parts = options.parts or [*PARTS]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    wrong = sum([PARTS[part](options) for part in parts])
    if not options.quick:
        merge(RECORD, rows=rows())
    sys.exit(bool(wrong))


def devices(options: argparse.Namespace) -> int:
    """Adapters and journals; how much was wrong."""
    less = 100 if options.quick else 1
    begun = time.perf_counter()
    with fake([MODEL] * GPUS) as nvml:
        kills = asdict(kill_adapters(nvml, SEED, options.adapters // less))
    journals = asdict(damage_journals(SEED, options.journals // less))
    faults = kills.pop("faults") + journals.pop("faults")
    tell({"adapters": kills, "journals": journals} | how(begun, "", options), faults, options)
    if not options.quick:
        counted = {"adapters": kills["kills"], "adapters_foreign_touched": kills["foreign_touched"]}
        more = {"adapters_false_reports": kills["false_reports"], "adapters_left_over": kills["left_over"]}
        merge(RECORD, kills=counted | more, journals={"damaged": journals["damaged"], "wrong": journals["wrong"]})
    return int(kills["foreign_touched"] + kills["false_reports"] + kills["left_over"] + journals["wrong"])


def trainings(options: argparse.Namespace) -> int:
    """Trainings; how much was wrong."""
    # They bring PyTorch and Ray, which the other parts do without.
    from training_trials import kill_trainings

    begun = time.perf_counter()
    kills = asdict(kill_trainings(SEED, options.trainings // (100 if options.quick else 1), PATIENCE_S))
    faults = kills.pop("faults")
    tell({"trainings": kills | how(begun, " trainings", options)}, faults, options)
    wrong = {f"trainings_{name}": kills[name] for name in ("not_resumed", "lost", "other_curve")}
    if not options.quick:
        merge(RECORD, kills={"trainings": kills["kills"]} | wrong)
    return sum(wrong.values()) + len(faults)


PARTS = {"devices": devices, "trainings": trainings}


def how(begun: float, words: str, options: argparse.Namespace) -> dict[str, Any]:
    """What was run, where, and how long it took."""
    return {
        "command": f"python experiments/field_kills.py{words}" + (" --quick" if options.quick else ""),
        "machine": f"{os.cpu_count()} cores, no GPU",
        "wall_s": round(time.perf_counter() - begun, 1),
    }


def tell(found: dict[str, Any], faults: list[str], options: argparse.Namespace) -> None:
    """Print what was found, and put it into the record in the place of what was there."""
    for line in faults:
        print(line, file=sys.stderr)
    print(json.dumps(found, indent=1))
    if not options.quick:
        path = RESULTS / "field_kills.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | found, indent=1) + "\n")


def rows() -> list[dict[str, Any]]:
    """A row a kind; whether it is so is what its test says now."""
    found = []
    for kind, before, after, test in ROWS:
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", test], cwd=ROOT, capture_output=True)
        found.append({"kind": kind, "before": before, "after": after, "test": test, "ok": done.returncode == 0})
    return found


def merge(path: Path, rows: list[dict[str, Any]] | None = None, **counts: dict[str, int]) -> None:
    """Our part of the record of all field cases; the rest of it stays as it is."""
    record = json.loads(path.read_text()) if path.exists() else {"rows": []}
    ours = {row["kind"] for row in rows or ()}
    others = [row for row in record.get("rows", []) if row["kind"] not in ours]
    record["rows"] = sorted([*others, *(rows or [])], key=lambda row: str(row["kind"]))
    for name, values in counts.items():
        record.setdefault(name, {}).update(values)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(table(record))


if __name__ == "__main__":
    main()
