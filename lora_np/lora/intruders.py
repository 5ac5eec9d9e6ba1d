r"""Intruder dimensions, large singular vectors of W + ΔW that nothing in W looks like, made smaller.

Shuttleworth et al., 2024, "LoRA vs Full Fine-tuning: An Illusion of Equivalence" (arXiv 2410.21228). The paper finds
that LoRA's updates bring such vectors and full fine-tuning hardly does, that there are more of them with a small rank
and a high learning rate, and that making them smaller gives back what the model had forgotten, at little cost for what
it has learned.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import nn
from ..autograd.devices import to_numpy
from ..expect import expect_number
from .analysis import among_singular_vectors, check_intruder_settings
from .base_layer import arrays_of
from .combine import truncated_svd
from .model_adapter import PREFIX
from .state import set_peft_model_state_dict
from .variants import EmbeddingAdapter
from .variants.tokens import TokenAdapter
from .weighted import names_of_matrices

if TYPE_CHECKING:
    from .peft_model import PeftModel

OLD, NEW = "default", "intruder_reduced"


@nn.all_or_nothing
def reduce_intruder_dimension(
    peft_model: "PeftModel",
    old_adapter_name: str = OLD,
    new_adapter_name: str = NEW,
    top_k: int = 10,
    threshold_epsilon: float = 0.5,
    mitigation_lambda: float = 0.75,
    logging_sink: Callable[[str], Any] | None = print,
) -> None:
    """Add an adapter like `old_adapter_name`, its intruder dimensions smaller, and make it the active one.

    In each layer W + ΔW = U S Vᵀ is searched as by `analysis.intruder_dimensions`. Where some j are intruders, the new
    A and B are, of the old rank, the nearest to ΔW + (λ - 1) Σ_j u_j σ_j v_jᵀ; elsewhere they are the old ones, copied.

    top_k               how many of the largest singular vectors are looked at
    threshold_epsilon   below which cosine a vector is an intruder
    mitigation_lambda   λ, what is left of each: 1 changes nothing, 0 takes them out whole
    logging_sink        called with a line for each layer; None for silence

    For plain LoRA on linear layers and embeddings; its modules_to_save and the rows of trainable_token_indices are
    copied. (PEFT begins these anew. It compares the vectors on the input's side where the layer stores W as (in, out),
    as GPT-2's do, and cannot use the result there, nor beside an embedding: here W is always (out, in). On Linear
    layers the numbers are PEFT's.) ValueError for other kinds.
    """
    check_intruder_settings(top_k, threshold_epsilon)
    expect_number(mitigation_lambda, "mitigation_lambda")
    say = logging_sink or (lambda line: None)
    peft_model._check_known(old_adapter_name)
    peft_model._check_new_name(new_adapter_name)
    peft_model._refuse_change("reducing intruder dimensions")
    own = peft_model.base_model.adapter(old_adapter_name)
    arrays = own.saved_arrays()
    updates = {target: adapter for target, adapter in own.adapters.items() if not isinstance(adapter, TokenAdapter)}
    for target, adapter in updates.items():
        if not (adapter.plain or type(adapter) is EmbeddingAdapter) or adapter.initial is not None:
            raise ValueError(f"only plain LoRA has its intruder dimensions reduced; {target} has something else")
        layer = peft_model.base_model.adapted[target]
        reduced, count = _reduced(layer, adapter, top_k, threshold_epsilon, mitigation_lambda)
        say(f"{PREFIX}{target}: " + (f"Intruders: {count}" if count else "No intruders"))
        names = names_of_matrices(adapter)
        arrays |= {f"{PREFIX}{target}.{name}": X for name, X in zip(names, reduced, strict=True)}
    peft_model.add_adapter(new_adapter_name, dataclasses.replace(peft_model.peft_config[old_adapter_name]))
    set_peft_model_state_dict(peft_model, arrays, new_adapter_name)
    say(f"Enabling new adapter {new_adapter_name}")
    peft_model.set_adapter(new_adapter_name)


def _reduced(layer, adapter, top_k, threshold, mitigation_lambda):
    """((A, B) of the reduced adapter of one layer, how many intruders there are)."""
    weight = to_numpy(layer.oriented(arrays_of(layer.base_layer)[0])).astype(np.float64)
    delta = to_numpy(adapter.delta_weight()).astype(np.float64)
    merged = np.linalg.svd(weight + delta, full_matrices=False)
    found = among_singular_vectors(weight, merged, top_k, threshold)
    # The new adapter has the configured scaling, whatever the old one's is set to now.
    s = adapter.config.scaling_of(adapter.r, adapter.lora_alpha)
    if not found.indices:
        A, B = (X.data for X in adapter.matrices())
        return (A, B if adapter.scaling == s else B * (adapter.scaling / s)), 0
    (U, S, Vt), j = merged, found.indices
    wanted = delta + (mitigation_lambda - 1) * (U[:, j] * S[j]) @ Vt[j]
    A, B = truncated_svd(wanted / s, adapter.r)
    roots = np.sqrt(np.linalg.norm(B, axis=0))  # B has the singular values, A none
    return (roots[:, None] * A, B / np.where(roots > 0, roots, 1)), len(found.indices)
