# %% [markdown]
# # A plan for a MIG GPU
#
# MIG cuts one GPU into slices that run side by side. Which slices, in which order, so that a batch of tasks ends
# soonest? Cutting takes time, and a slice in use cannot be touched.

# %%
from rltune.mig.batch.bounds import bounds
from rltune.mig.batch.search import search
from rltune.mig.batch.tasks import tasks_of
from rltune.mig.geometry import geometry

# %% [markdown]
# ## The tasks
#
# Seconds of six tasks on slices of one, two, three, four and seven sevenths of an A100. Small tasks gain nothing from
# large slices.

# %%
tasks = tasks_of(
    "a100-80gb",
    {
        "1g": [100, 95, 240, 60, 420, 330],
        "2g": [98, 90, 130, 58, 220, 170],
        "3g": [97, 88, 92, 57, 150, 118],
        "4g": [97, 88, 75, 57, 120, 92],
        "7g": [96, 87, 60, 56, 80, 61],
    },
)

# %% [markdown]
# ## Search
#
# The search begins from every fixed partition and from FAR, a published method, and is never worse than any of them.
# With `steps` instead of seconds it gives the same plan on every machine.

# %%
outcome = search(tasks, ["a100-80gb"], steps=200_000)
print(f"the whole GPU, one task after the other: {96 + 87 + 60 + 56 + 80 + 61} s")
print(f"FAR: {outcome.seeds['far']:.1f} s")
print(f"our plan: {outcome.plan.makespan_s:.1f} s")

# %% [markdown]
# ## How good is it?
#
# A small integer program gives a bound that no schedule whatever can beat.

# %%
proved = bounds(tasks, ["a100-80gb"], prove_s=60).proved
print(f"no plan ends before {proved:.1f} s")

# %% [markdown]
# ## The plan
#
# Which task runs on which slice, and when. The number behind @ is the first memory slice.

# %%
names = [profile.name for profile in geometry("a100-80gb").profiles]
for run in sorted(outcome.plan.runs, key=lambda run: run.start_s):
    place = outcome.plan.instances[run.instance].placement
    print(
        f"{tasks.names[run.task]:>2} on {names[place.profile]}@{place.start}: {run.start_s:6.1f} to {run.end_s:6.1f} s"
    )
