#!/usr/bin/env bash
# Every learned figure under experiments/, from scratch: about two hours on two cores. Needs RLTUNE_TRACES (real logs).
# Without the logs the same commands run on the calibrated generator, and every table says so.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
python=${PYTHON:-.venv/bin/python}
runs=${RUNS:-runs}
at_once=${AT_ONCE:-2}
results=experiments/results
models=rltune/models

train() {  # NAME OPTIONS...: in the background, ${at_once} at a time
  while (( $(jobs -rp | wc -l) >= at_once )); do wait -n; done
  "$python" -m rltune.train runs="$runs" evaluate=false progress=false name="$1" "${@:2}" &
}
evaluate() {  # NAME OPTIONS...: the table, from the shipped policies
  "$python" -m rltune.evaluate runs="$runs" progress=false name="$1" "${@:2}"
  rm -rf "${results:?}/$1"
  mkdir -p "$results/$1"
  cp "$runs/$1"/{config.yaml,manifest.json,summary.json,*.md,*.png} "$results/$1/"
}
keep() {  # NAME MODEL: a policy, as the model it is shipped as, and how its training went; its card is written by hand
  cp "$runs/$1/policy.safetensors" "$models/$2.safetensors"
  for file in curve.csv learning_curve.png manifest.json; do cp "$runs/$1/$file" "$results/training/$1.$file"; done
}

# Windows of 256 jobs of the Helios log, three seeds; the month at two sizes of the cluster, two seeds each; the
# published protocol (RLTune's Helios cluster), two seeds.
for seed in 0 1 2; do train "helios_window_s$seed" +trace=helios seed="$seed"; done
for nodes in 85 100; do
  for seed in 0 1; do train "helios_month${nodes}_s$seed" +trace=helios protocol=month nodes="$nodes" seed="$seed"; done
done
for seed in 0 1; do train "rltune_helios_s$seed" +trace=rltune_helios seed="$seed"; done
wait

mkdir -p "$results/training"
rm -f "$results"/training/*
keep helios_window_s0 helios_window
for seed in 1 2; do keep "helios_window_s$seed" "helios_window_s$seed"; done
keep helios_month100_s0 helios
keep helios_month100_s1 helios_s1
keep helios_month85_s0 helios_85
keep helios_month85_s1 helios_85_s1
keep rltune_helios_s0 rltune_helios
keep rltune_helios_s1 rltune_helios_s1

evaluate helios_window +trace=helios "checkpoint=[helios_window,helios_window_s1,helios_window_s2]"
evaluate helios_month85 +trace=helios protocol=month nodes=85 "checkpoint=[helios_85,helios_85_s1]"
evaluate helios_month100 +trace=helios protocol=month nodes=100 "checkpoint=[helios,helios_s1]"

# The 16 public windows of the published protocol begin at jobs 12,241 to 76,726; the test stretch at job 12,000.
public="[62685,6116,61362,55226,64726,18764,21868,13971,241,1654,7826,9254,52888,29132,33177,916]"
evaluate rltune_helios_public +trace=rltune_helios allocator=lexicographic windows="$public" \
  "checkpoint=[rltune_helios,rltune_helios_s1]"

# The MILP's objective, on the validation month.
"$python" experiments/milp_measures.py > "$results/milp_measures.txt"

# The simulator beside published results, and every policy on one month.
export OMP_NUM_THREADS=1
for script in helios_table3 policies_helios suspension all_at_once joint_suspension ways house; do "$python" "experiments/$script.py"; done
for script in openb_fragmentation openb_window; do "$python" "experiments/$script.py" --processes 2; done

# Published experiments in rounds, whose runs were made with ECOS: our constants on drawn lists, then the tables.
"$python" -m pip install --disable-pip-version-check -qq -c constraints.txt -e '.[published]'
for script in gavel shockwave; do "$python" "experiments/$script.py" --choose; "$python" "experiments/$script.py"; done
# An agent that sets the parameters of order and market (three trainings and a search, an hour).
"$python" experiments/steering.py

# The same orders under several allocators, and training with the MILP in the loop and without.
for part in golden month hard; do "$python" experiments/allocators.py "$part"; done
"$python" experiments/milp_in_training.py --epochs 50

# MIG planning: batches, the agent, tenants. Needs golden/ beside the traces for the recorded ones.
"$python" experiments/mig_batches.py
"$python" experiments/mig_agent.py
"$python" experiments/mig_online.py --fresh 40
"$python" experiments/devices.py
"$python" experiments/mig_execute.py

# The hybrid on unlike GPUs and what each part of it is worth (an hour), and one pool with unknown run times.
"$python" experiments/hybrid.py
"$python" experiments/one_pool.py

# Beside a real Slurm (root; Debian's slurmctld, slurmd, slurm-client, munge; an hour).
"$python" experiments/slurm.py
