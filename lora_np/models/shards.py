"""A batch in parts for several processor cores: each shard of its rows goes through the model in its own thread."""

import functools
from typing import Any

import numpy as np

from ..autograd import threads
from ..autograd.devices import to_numpy
from ..autograd.tensor import data
from .output import IGNORED, ShardedOutput


def shards_of(targets: Any) -> list[np.ndarray]:
    """The rows of each shard, for targets (B, T) or None; [] if one thread does better or a part has no target."""
    count = 1 if targets is None else threads.shard_count(*targets.shape)
    shards = np.array_split(np.arange(len(targets)), count) if count > 1 else []
    return shards if all((targets[rows] != IGNORED).any() for rows in shards) else []


def forward_in_shards(
    model: Any,
    shards: list[np.ndarray],
    targets: Any,
    ids: np.ndarray,
    labels: Any,
    attention_mask: Any,
    position_ids: Any,
    seq_idx: Any = None,
) -> ShardedOutput:
    """`model(ids, labels, ...)`, each shard by a thread of its own. The loss is the mean over the targets of all."""
    labels = to_numpy(data(labels))

    def forward(rows):
        more = {"attention_mask": attention_mask, "position_ids": position_ids, "seq_idx": seq_idx}
        own = {name: x if np.ndim(x) < 2 else to_numpy(data(x))[rows] for name, x in more.items() if x is not None}
        return model.forward(ids[rows], labels[rows], **own)

    work = [functools.partial(forward, rows) for rows in shards]
    outputs = threads.run_in_threads(threads.seeded(work) if model.training else work)
    counted = [int((targets[rows] != IGNORED).sum()) for rows in shards]
    weights = [n / sum(counted) for n in counted]
    return ShardedOutput(outputs, threads.weighted_sum([out.loss for out in outputs], weights))
