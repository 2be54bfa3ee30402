"""A learned policy as a policy of the simulator: it picks one job, looks again, picks the next, or waits.

The same kernels as in training choose which jobs may be picked, observe them and start them, on the state of the
simulation itself, in either build.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rltune.core.reference import Ref, ref
from rltune.core.state import ALWAYS, BLOCKING, NOW, QUEUED, STARTED, Sim
from rltune.nouns.errors import InputError
from rltune.rl.kernels import begin_instant_of, look, open_episode_of, pick, step_blocking
from rltune.rl.network import JobNetwork
from rltune.rl.observe import CLUSTER_FEATURES, JOB_FEATURES, features_of
from rltune.rl.rows import CLOSED, FRESH, OVER, SHOWN, Batch, Row, new_episode
from rltune.rl.scoring import WAIT
from rltune.simulator.progress import Pace
from rltune.simulator.recording import Recorder


class OneRow:
    """A simulation's state as the only row of a batch, so that kernels and the joint placement of training serve it."""

    def __init__(self, sim: Sim, visible: int) -> None:
        self.value = Row(sim, new_episode(sim, visible))
        self._first = ref(self.value)
        self.batch: Ref = ref(Batch(self.value, np.array([self._first.address]), sim))

    def row(self, i: int) -> Row:
        """The row; views, no copies."""
        return self.value

    def grown(self, sim: Sim) -> OneRow:
        """The same episode on a state whose log has been replaced."""
        other = OneRow.__new__(OneRow)
        other.value = Row(sim, self.value.episode)
        other._first = ref(other.value)
        other.batch = ref(Batch(other.value, np.array([other._first.address]), sim))
        return other


@dataclass
class Picking:
    """A network bound to one simulation; a `rltune.simulator.decisions.Decision`.

    ``joint``: places the jobs of one instant together (`rltune.rl.joint`); None: where they were placed when picked.
    ``recorder``: hears of every choice.
    """

    network: JobNetwork
    row: OneRow
    joint: Any = None
    records: list[dict[str, object]] = field(default_factory=list)
    recorder: Recorder | None = None

    def __post_init__(self) -> None:
        visible = self.network.config.visible
        self._mask = np.zeros((1, visible + 1), np.int8)
        self._jobs = np.zeros((1, visible, len(JOB_FEATURES)), np.float32)
        self._cluster = np.zeros((1, len(CLUSTER_FEATURES)), np.float32)
        open_episode_of(self.row.batch)

    @property
    def visible(self) -> int:
        return self.network.config.visible

    def take(self, state: Ref) -> None:
        """Pick jobs until the network waits or no job may be picked."""
        sim: Sim = state.value
        if sim is not self.row.value.sim:
            self.row = self.row.grown(sim)
        mark, now = self.row.value.episode.mark, float(sim.clock[NOW])
        waiting, started = int(sim.counts[QUEUED]), int(sim.counts[STARTED])
        begin_instant_of(self.row.batch)
        while look(self.row.batch, self.visible, self._mask, self._jobs, self._cluster) > 0:
            action = self.choose()
            pick(self.row.batch, action, WAIT, self.visible, self._mask)
            if mark[CLOSED] == 1:
                if self.joint is not None and mark[FRESH] >= self.joint.fewest:
                    self.joint.place(self.row, 0, action == self.visible)
                if mark[CLOSED] == 1:
                    break
        self.records.append({"now_s": now, "queued": waiting, "started": int(sim.counts[STARTED]) - started})

    def exchange(self, network: JobNetwork) -> None:
        """Another network of the same configuration decides from now on."""
        self.network = network.eval()

    def choose(self) -> int:
        """The network's best legal action on the present observation."""
        scores = self.scores()
        if self.recorder is not None:
            self._tell(self.recorder, scores)
        return int(scores.argmax())

    def tell(self, recorder: Recorder) -> None:
        """Let a recorder hear of every choice from now on."""
        self.recorder = recorder
        recorder.score, recorder.picks = "logit of the network", True
        recorder.features, recorder.seen = features_of(self.row.value.sim)

    def _tell(self, recorder: Recorder, scores: Any) -> None:
        """The present observation, and the scores on it."""
        sim, episode = self.row.value.sim, self.row.value.episode
        jobs = sim.queue[episode.slot[: episode.mark[SHOWN]]]
        seen = jobs, self._mask[0], self._jobs[0], self._cluster[0]
        recorder.picked(float(sim.clock[NOW]), int(sim.counts[QUEUED]), seen, scores)

    def scores(self) -> Any:
        """(V + 1,) scores of the visible jobs and of waiting, on the present observation."""
        seen = {"action_mask": self._mask, "cluster": self._cluster, "jobs": self._jobs}
        with torch.inference_mode():
            logits, _ = self.network({name: torch.from_numpy(value) for name, value in seen.items()})
        return logits[0].numpy()

    def run_blocking(self) -> None:
        """The reference protocol to its end: each picked job is waited for (lean build)."""
        mark, sim, pace = self.row.value.episode.mark, self.row.value.sim, Pace()
        action = -1
        while True:
            step_blocking(self.row.batch, action, self.visible, self._mask, self._jobs, self._cluster)
            if mark[OVER] == 1:
                pace.tell(sim)
                return
            pace.look(sim)
            action = self.choose()


def bind(network: JobNetwork, sim: Sim, joint: Any = None) -> Picking:
    """The network as who decides in a simulation of ``sim``; ``joint``: see `Picking`."""
    if sim.params.backfill != BLOCKING and sim.params.outside != ALWAYS:
        raise InputError("a learned policy decides outside the kernels; build the state with outside=ALWAYS")
    return Picking(network.eval(), OneRow(sim, network.config.visible), joint)
