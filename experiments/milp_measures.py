"""F4 with EASY in August, the validation month of Helios: best fit beside the MILP under each fragmentation measure.

OMP_NUM_THREADS=1 python experiments/milp_measures.py > experiments/results/milp_measures.txt
"""

from __future__ import annotations

import rltune
from rltune.allocators.fragmentation import MEASURES, cost_table, demand_of
from rltune.allocators.milp import MilpAllocator
from rltune.rl.joint import JointPlacement
from rltune.rl.network import JobNetwork, NetworkConfig
from rltune.rl.rollout import play
from rltune.rl.rules import Rules, make_setup


def main() -> None:
    helios = rltune.load_trace("helios")
    before = helios.between("2020-04-01", "2020-08-01").jobs.num_gpus
    august = helios.between("2020-08-01", "2020-09-01")
    print(f"mean wait, s; {august.label}, {len(august)} jobs of August; f4-easy, run times known")
    for nodes in (100, 85):
        cluster = rltune.load_cluster("helios", nodes=nodes)
        demand = demand_of(before, cluster.arrays())
        for measure in (None, *MEASURES):
            # An untrained network is its baseline order, schedule for schedule.
            rules = Rules(baseline="f4", allocator="milp" if measure else "best_fit", window=len(august))
            cost = cost_table(cluster.arrays(), measure or "demand", demand)
            setup = make_setup(august, cluster, rules, history=helios, cost=cost)
            joint = JointPlacement(MilpAllocator(measure, demand)) if measure else None
            played = play(setup, JobNetwork(NetworkConfig()), [0], joint)
            print(f"{nodes} nodes  {f'milp, {measure}' if measure else 'best_fit':<18} {-played.returns[0]:7.1f}")


if __name__ == "__main__":
    main()
