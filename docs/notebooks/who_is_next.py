# %% [markdown]
# # Who is next?
#
# A policy can be asked about a queue that you have, without any simulation: which of these jobs should start now? This
# is what `rltune.slurm` and the live service do, many times a day.

# %%
import rltune

# %% [markdown]
# ## A queue
#
# One node with eight GPUs. Five of them are in use for one more hour. Three jobs wait: one that needs all eight, and
# two small ones. `duration_s` is the run time as you believe it.

# %%
cluster = rltune.load_cluster("helios", nodes=1)
now_s = 5_000_600
waiting = {
    "job_id": ["a", "b", "c"],
    "submit_s": [now_s - 600, now_s - 300, now_s - 60],
    "duration_s": [2 * 3600, 1800, 9 * 3600],
    "num_gpus": [8, 2, 1],
}
running = {"end_s": [now_s + 3600], "nodes": [[0]], "gpus": [[5]]}

# %% [markdown]
# ## Ask a rule
#
# Under `easy` nobody may delay the first job. b ends before a can start, so b starts; c would still hold a GPU that a
# needs, so c waits. Under `skip` both start, and a waits for nine hours.

# %%
for backfill in ("easy", "skip", "blocking"):
    print(backfill, rltune.who_is_next("fifo", waiting, cluster, now_s=now_s, running=running, backfill=backfill))

# %% [markdown]
# ## Ask a shipped model
#
# In three lines: load it, describe the queue, ask.

# %%
policy = rltune.load_policy("helios")
queue = {"job_id": ["a", "b"], "submit_s": [5_000_000, 5_000_060], "duration_s": [7200, 600], "num_gpus": [8, 1]}
print(rltune.who_is_next(policy, queue, rltune.load_cluster("helios", nodes=1), now_s=5_000_300))

# %% [markdown]
# ## Ask a function of yours


# %%
def short_first(queue, snapshot):
    return queue.run_s


print(rltune.who_is_next(short_first, waiting, cluster, now_s=now_s, running=running, backfill="skip"))
