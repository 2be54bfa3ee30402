"""How each number of the page was made: name, formula or rule, and a remark. Said once, for all scenes."""

from __future__ import annotations

from rltune.nouns.gpus import BUSY_SHARE, IDLE_SHARE
from rltune.nouns.metrics import BOUND_S, RESAMPLES

DEFINITIONS: tuple[tuple[str, str, str], ...] = (
    ("wait", "w = start − submission", "In seconds; of a job that was suspended, all its time without GPUs. Jobs that never ended enter no mean: they stand under “unfinished”."),
    ("JCT", "end − submission", "Job completion time; wait plus run time where nothing was interrupted or ran on other hardware."),
    ("slowdown", "JCT / max(r, 1 s)", "r: the recorded run time."),
    ("bounded slowdown", f"max(1, JCT / max(r, {BOUND_S:g} s))", "Feitelson, JSSPP 2001: short jobs do not dominate the mean."),
    ("[95 %]", f"percentile bootstrap, {RESAMPLES:,} resamples", "Whole windows are resampled, or whole days of submission where there is one stretch: jobs of one day are not independent. Seed 0."),
    ("less wait than under the best rule", "1 − Σ ours / Σ theirs", "Over the same jobs; the interval resamples the same windows or days of both. The best rule is that of the least mean on these very jobs, so it is chosen with hindsight, among the rules that know no more of run times than the row. “–”: the row is that rule, or jobs ended under one and not under the other."),
    ("run times", "exact, predicted, unknown", "What a policy knows: the recorded run time; a forecast from jobs that had ended before (by user, name and size where the log has them); nothing."),
    ("utilisation", "GPU-seconds held / (makespan × GPUs)", "Makespan: last end − first submission. Over time: of each pool, in equal stretches."),
    ("waiting jobs by pool", "time-weighted mean", "Jobs submitted and not running that may use the pool as they ask for it; one that may use several counts in each, so pools do not add up."),
    ("fragmentation", "free GPUs on partly used nodes", "Time-weighted; the more of them, the less room for jobs that want whole nodes."),
    ("MIG occupancy", "GPUs held in slices / GPUs that may be cut", "A slice counts by its memory; slices held are instances."),
    ("energy", f"Σ held × busy power + free × idle power", f"GPUs alone, without hosts and cooling. Busy: the measured share of the board's limit (V100 0.63, P100 0.47: Zeus, NSDI 2023), else {BUSY_SHARE:g}; idle {IDLE_SHARE:g} of it. Left out where the power of a type is unpublished."),
    ("no schedule below", "larger of two relaxations", "One machine as fast as all GPUs together, jobs of length r × GPUs / all GPUs: shortest remaining time first (Schrage 1968), and mean busy times (Goemans 1997; the squashed area bound with release dates). Proofs: rltune/simulator/bounds.py. The wait's bound is the JCT's less the mean run time, never below 0."),
    ("share above (figures on log axes)", "P(X > x)", "The complementary distribution of all jobs of the row; its last step is one job."),
    ("kept (learning curves)", "best on validation, if clearly", "Training keeps an epoch only if it is clearly better than the order it began with on jobs that are neither trained on nor tested; else that order is what is shipped."),
)  # fmt: skip
"""(name, formula, remark)."""
