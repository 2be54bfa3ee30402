#!/usr/bin/env bash
# Every learned figure under experiments/, from scratch: about half an hour on two cores. Needs RLTUNE_TRACES (real logs).
# Without the logs the same commands run on the calibrated generator, and every table says so.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
runs=${RUNS:-runs}
train() { "$python" -m rltune.train runs="$runs" evaluate=false "$@"; }
evaluate() { "$python" -m rltune.evaluate runs="$runs" "$@"; }

# The main job on the Helios log: windows of 256 jobs, two seeds.
for seed in 0 1; do train +trace=helios seed="$seed" name="helios_window_s$seed"; done
evaluate +trace=helios name=helios_window \
  "checkpoint=[$runs/helios_window_s0,$runs/helios_window_s1]"

# The September month at 100 and 85 nodes, trained on warm windows of April to July.
train +trace=helios protocol=month seed=0 name=helios_month_s0
evaluate +trace=helios protocol=month name=helios_month checkpoint="$runs/helios_month_s0"
evaluate +trace=helios protocol=month name=helios_month_best_fit checkpoint="$runs/helios_month_s0" allocator=best_fit \
  "policies=[fifo,sjf,saf,f3,f4,wfp3,unicef]"

# The published protocol: RLTune's Helios cluster, trained on jobs 0..8,999, judged on the 16 public windows
# (first jobs 12241..76726 of the trace; the test stretch begins at job 12,000).
train +trace=rltune_helios seed=0 name=rltune_helios_s0
public="[62685,6116,61362,55226,64726,18764,21868,13971,241,1654,7826,9254,52888,29132,33177,916]"
evaluate +trace=rltune_helios name=rltune_helios_public allocator=lexicographic \
  checkpoint="$runs/rltune_helios_s0" windows="$public"
