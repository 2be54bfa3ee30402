"""What a guard is worth and costs: ``python experiments/guard.py`` (RLTUNE_TRACES set).

The shipped ``helios_window`` (F3 as baseline, with EASY), and the same made harmful (its network and the prior of its
baseline with their signs reversed), on 64 windows of 256 jobs each of Helios' August (their validation stretch), of Philly and PAI (which
they have not been trained on): by themselves, under guard, and the baseline. The guard's own numbers are its defaults, set on drawn
jobs of the tests. Writes results/guard.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hybrid import gain, percent
from scores import LENGTH, RESULTS, WINDOWS, machine, windows

import rltune
from rltune.experiment.rows import guard_over
from rltune.rl.network import JobNetwork
from rltune.simulator.guard import Guard

COMMAND = "RLTUNE_TRACES=... OMP_NUM_THREADS=1 python experiments/guard.py"
STRETCHES = {"helios": "validate", "philly": "test", "alibaba": "test"}
MODELS = ("helios_window",)


class Reversed(JobNetwork):
    """The jobs that a network likes least first."""

    def forward(self, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        scores, value = super().forward(obs)
        mask = obs["action_mask"] == 0
        turned = torch.cat([-scores[:, :-1], torch.full_like(scores[:, -1:], -1e6)], 1)
        return turned.masked_fill(mask, -1e9), value


def harmful(policy: Any) -> Any:
    """A policy turned round."""
    network = Reversed(policy.network.config)
    network.load_state_dict(policy.network.state_dict())
    return replace(policy, network=network.eval())


def play(policy: Any, among: list[rltune.Trace], cluster: Any) -> tuple[Any, dict[str, Any] | None]:
    """(n_windows, 2) jobs and sum of their waits; what the guard tells over all windows."""
    rows, told = [], []
    for each in among:
        result = rltune.simulate(each, cluster, policy=policy, backfill="easy", allocator="best_fit", oversized="drop")
        wait = result.scores()["wait_s"]
        rows.append((len(wait), float(wait.sum())))
        told += [result.extra["guard"]] if "guard" in result.extra else []
    return np.array(rows), guard_over(told) if told else None


def measure() -> list[dict[str, Any]]:
    """A row for each trace and policy."""
    rows = []
    shipped = {name: rltune.load_policy(name) for name in MODELS}
    shipped[f"{MODELS[0]}, reversed"] = harmful(shipped[MODELS[0]])
    for trace, stretch in STRETCHES.items():
        among, cluster = windows(trace, stretch)
        baseline, _ = play(shipped[MODELS[0]].baseline, among, cluster)
        for name, policy in shipped.items():
            free, _ = play(policy, among, cluster)
            held, told = play(policy.guarded(), among, cluster)
            means = {
                key: float(x[:, 1].sum() / x[:, 0].sum())
                for key, x in (("free", free), ("guarded", held), ("baseline", baseline))
            }
            rows.append(
                {
                    "trace": trace, "stretch": stretch, "policy": name, "baseline": policy.baseline, "wait_s": means,
                    "free": gain([free], [baseline]), "guarded": gain([held], [baseline]), "guard": told,
                }
            )  # fmt: skip
            print(trace, name, rows[-1]["wait_s"], told, flush=True)
    return rows


def text(out: dict[str, Any]) -> str:
    """The table."""
    about, guard = out["_about"], Guard()
    heads = ("trace", "policy", "by itself", "guarded", "baseline", "by itself, %", "guarded, %", "learned decided", "switches", "checks",
             "ms a check", "ms a decision")  # fmt: skip
    lines = [
        "# A guard for learned policies", "",
        f"`{about['command']}`; real logs; machine: {about['machine']}, other work beside. {WINDOWS} windows of {LENGTH} jobs, EASY,",
        f"run times known. Shadows {guard.ahead_s:g} s ahead every {guard.every_s:g} s, tolerance {guard.tolerance:g}. Mean wait, s;",
        "less wait than the baseline, percent (95 %, windows drawn anew; negative: more).", "",
        "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads),
    ]  # fmt: skip
    for r in out["rows"]:
        w, g = r["wait_s"], r["guard"]
        plain = f"{w['baseline']:,.0f} ({r['baseline']})"
        decided, check_ms = sum(g["decisions"].values()), 1000 * g["s_a_check"]
        cells = [
            f"{r['trace']} ({r['stretch']})", r["policy"], f"{w['free']:,.0f}", f"{w['guarded']:,.0f}", plain,
            percent(r["free"]), percent(r["guarded"]), f"{100 * g['decisions']['learned'] / decided:.0f} %", f"{g['switches']:,}",
            f"{g['checks']:,}", f"{check_ms:.0f}", f"{check_ms * g['checks'] / decided:.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    out = {"_about": {"command": COMMAND, "machine": machine(), "source": "real"}, "rows": measure()}
    (RESULTS / "guard.json").write_text(json.dumps(out, indent=1) + "\n")
    (RESULTS / "guard.md").write_text(text(out))


if __name__ == "__main__":
    main()
