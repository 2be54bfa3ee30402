"""What the keys of named policies are, in words: for whoever looks at a queue in their order."""

from __future__ import annotations

MEANINGS = {
    "fifo": "submission, s",
    "lifo": "minus submission, s",
    "smallest": "GPUs",
    "largest": "minus GPUs",
    "multifactor": "-1000 (1 - GPUs / 160)",
    "sjf": "believed run time, s; then GPUs",
    "ljf": "minus believed run time, s",
    "saf": "believed run time times GPUs, GPU-s",
    "laf": "minus believed run time times GPUs, GPU-s",
    "srf": "believed run time over GPUs, s",
    "lrf": "minus believed run time over GPUs, s",
    "f1": "log10(run time) GPUs + 870 log10(submission)",
    "f2": "sqrt(run time) GPUs + 25,600 log10(submission)",
    "f3": "run time GPUs + 6,860,000 log10(submission)",
    "f4": "run time sqrt(GPUs) + 530,000 log10(submission)",
    "wfp3": "-(wait / run time)^3 GPUs",
    "unicef": "-wait / (log2(GPUs) run time)",
    "sexp": "(wait + run time) / GPUs, s",
    "lexp": "-(wait + run time) / GPUs, s",
    "srtf": "believed remaining run time, s",
    "srsf": "believed remaining run time times GPUs, GPU-s",
    "las": "attained service, GPU-s",
    "las_levels": "level of attained service",
    "gittins": "GPU-s a completion, by what past jobs needed",
    "priority": "minus priority",
    "round_robin": "turn",
    "lottery": "drawing: -log(u) / tickets",
    "wfq": "virtual time, GPU-s / weight",
    "fair_user": "decayed usage of the user, GPU-s",
    "fair_vc": "decayed usage of the virtual cluster, GPU-s",
}
"""Policy -> its key; the smallest goes first."""
