"""EVA's search: batches are run until the directions that are kept in each layer have settled, and share the ranks."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...autograd import Tensor
from ...autograd.tensor import data
from ..model_adapter import PREFIX
from ..types import Array
from .pca import Directions

MOST_PASSES = 100  # over the batches
LayerInputs = Callable[[Any, Any, str], Any]


class Search:
    """The directions of the layers {name: layer}, while they are being found."""

    def __init__(self, layers: dict[str, Any], config: Any, prepare: Any) -> None:
        self.layers, self.eva, self.prepare = layers, config.eva_config, prepare
        if isinstance(prepare, Mapping) and (unknown := [name for name in prepare if name not in layers]):
            raise ValueError(
                f"prepare_layer_inputs_fn has {', '.join(unknown)}, and the adapted layers: {list(layers)}"
            )
        self.ranks = {name: config.rank_and_alpha(name.removeprefix(PREFIX))[0] for name in layers}

    def rows(self, name: str, x: Array, model_input: Any) -> Array:
        """The rows (N, in) of a layer's input that count, in float32 or better."""
        prepare = self.prepare.get(name) if isinstance(self.prepare, Mapping) else self.prepare
        found = x.reshape(-1, x.shape[-1]) if prepare is None else np.asarray(data(prepare(x, model_input, name)))
        if not np.isfinite(found).all():
            raise ValueError(f"{name}: its inputs have NaN or infinity in them")
        return found.astype(np.result_type(found.dtype, np.float32), copy=False)

    def found(self, batches: list[Any], run_over: Any) -> dict[str, Tensor]:
        """{name: A}, once all directions that are kept have settled."""
        self._share(batches[0], run_over)
        ranks = dict(self.most)
        for number in range(MOST_PASSES * len(batches)):
            moving = [name for name, found in self.directions.items() if not found.converged[: ranks[name]].all()]
            if not moving:
                return {name: self._matrix(name, rank) for name, rank in ranks.items()}
            run_over(batches[number % len(batches)], {name: self.layers[name] for name in moving}, self._add)
            if all(found.components is not None for found in self.directions.values()):
                ranks = self._distributed()
            elif number + 1 == len(batches):
                self._refuse_small_batches()
        raise ValueError(
            f"{moving[0]}: its directions have not settled in {MOST_PASSES} passes over the batches; lower tau "
            f"({self.eva.tau}), or give more tokens than {self.most[moving[0]]} of different kinds"
        )

    def _share(self, batch, run_over):
        """Which layers have the same inputs: of each such group the first is the one that is looked at."""
        seen: dict[str, str] = {}
        run_over(batch, self.layers, lambda name, x: seen.setdefault(name, hashlib.sha256(x.tobytes()).hexdigest()))
        first: dict[str, str] = {}
        self.stands_for = {name: first.setdefault(seen[name], name) for name in self.layers}
        wanted = {name: min(round(r * self.eva.rho), self.layers[name].in_features) for name, r in self.ranks.items()}
        most = {one: max(wanted[n] for n, other in self.stands_for.items() if other == one) for one in first.values()}
        self.most = {name: most[one] for name, one in self.stands_for.items()}
        self.directions = {one: Directions(k, self.eva.tau) for one, k in most.items()}

    def _add(self, name, rows):
        if len(rows) >= self.most[name]:  # fewer cannot have so many directions
            self.directions[name].add(rows)

    def _refuse_small_batches(self):
        name = next(name for name, found in self.directions.items() if found.components is None)
        raise ValueError(
            f"{name}: no batch has {self.most[name]} tokens that count, as many as there may be ranks (rho · r); "
            "give larger batches, or a smaller rho or r"
        )

    def _distributed(self):
        """{name: rank}: how many of a layer's directions are among the Σ r that explain most."""
        order = sorted(self.layers, key=lambda name: self.stands_for[name] != name)  # those that are looked at first
        pairs = [(share, name) for name in order for share in self.directions[self.stands_for[name]].explained]
        pairs.sort(key=lambda pair: -pair[0])
        counts = Counter(name for _, name in pairs[: sum(self.ranks.values())])
        for name, one in self.stands_for.items():
            if counts[one] < counts[name]:  # the one that is looked at has to settle for all of its group
                counts[one], counts[name] = counts[name], counts[one]
        return {name: counts[name] for name in self.most}

    def _matrix(self, name, rank):
        found = self.directions[self.stands_for[name]]
        V, S = found.components[:rank], found.singular_values[:rank, None]
        return Tensor(np.where(S > 0, V / np.sqrt(np.where(S > 0, S, 1)), V) if self.eva.whiten else V.copy())
