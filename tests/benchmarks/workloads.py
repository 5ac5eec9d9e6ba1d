"""The workloads: a model, what is done with it, a batch. And the matrix products that one training step needs."""

from dataclasses import dataclass

# The linear layers of one block, in stages: the layers of a stage read the same input. Attention follows the first.
STAGES = {
    "gpt2": (("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",)),
    "llama": (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.o_proj",),
        ("mlp.gate_proj", "mlp.up_proj"),
        ("mlp.down_proj",),
    ),
}


@dataclass(frozen=True)
class Workload:
    """One task on one model.

    kind            "lora": a training step of an adapter (forward, backward, AdamW); "full": one of the whole model,
                    with SGD; "generate": greedy decoding; "merged": the forward pass with the adapter merged
    width, inner    channels of the residual stream, and inside the MLP (4 · width if not given)
    kv_heads        heads of keys and values (as many as of queries if not given)
    target_modules  the layers with an adapter: ends of their names, or "all-linear"
    turns           how often each system's turn comes
    """

    title: str
    vocab_size: int
    width: int
    layers: int
    heads: int
    batch: int
    length: int
    rank: int = 8
    target_modules: tuple | str = ("c_attn",)
    turns: int = 3
    kind: str = "lora"
    architecture: str = "gpt2"
    inner: int | None = None
    kv_heads: int | None = None
    new_tokens: int = 0

    def model_config(self):
        """The fields of config.json. No dropout, and no token that stops the writing.

        Llama's random weights are SmolLM2's, 1/√C: with smaller ones greedy decoding repeats one token for ever.
        """
        common = {"model_type": self.architecture, "vocab_size": self.vocab_size}
        common |= {"bos_token_id": None, "eos_token_id": None}
        if self.architecture == "gpt2":
            off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
            sizes = {"n_embd": self.width, "n_layer": self.layers, "n_head": self.heads, "n_positions": 1024}
            return {**common, **sizes, **off, "n_inner": self.inner}
        sizes = {"hidden_size": self.width, "intermediate_size": self.inner or 4 * self.width}
        sizes |= {"num_hidden_layers": self.layers, "num_attention_heads": self.heads}
        sizes |= {"num_key_value_heads": self.kv_heads or self.heads, "max_position_embeddings": 8192}
        sizes |= {"initializer_range": self.width**-0.5}
        return {**common, **sizes, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0, "tie_word_embeddings": True}

    def products(self):
        """[(m, k, n, repeats)]: the products (m, k) @ (k, n) that one training step cannot do without.

        Backward: dx where something is trained further down, dw of what is trained, nothing for frozen weights.
        `below` says whether something is: in block 0, the layers that read the same input as the lowest adapted one
        need no dx. Attention's products are counted whole, its causal half not left out.
        """
        N, C, V = self.batch * self.length, self.width, self.vocab_size
        below = self.kind == "full"  # then the embeddings are trained, and they are below everything
        found = [(N, C, V, 1), (N, V, C, 1), *[(V, N, C, 1)] * below]  # the head: logits, dx, dw
        for _ in range(self.layers):
            for number, stage in enumerate(STAGES[self.architecture]):
                for name in stage:
                    found += self._linear_products(name, below)
                if number == 0:
                    found += self._attention_products([below or self._is_trained(name) for name in stage])
                below = below or any(self._is_trained(name) for name in stage)
        return found

    def _linear_products(self, name, below):
        """One layer's products: forward; dx if something below is trained; dw, or those of its adapter."""
        N, r, (fan_in, fan_out) = self.batch * self.length, self.rank, self._fans(name)
        found = [(N, fan_in, fan_out, 1)] + [(N, fan_out, fan_in, 1)] * below
        if self.kind == "full":
            return [*found, (fan_in, N, fan_out, 1)]
        if self._is_trained(name):
            found += [(N, fan_in, r, 1), (N, r, fan_out, 1), (N, fan_out, r, 1)]  # h = x Aᵀ, h Bᵀ, g = dy B
            found += [(r, N, fan_in, 1), (fan_out, N, r, 1)] + [(N, r, fan_in, 1)] * below  # dA, dB, g A
        return found

    def _attention_products(self, wanted):
        """Scores and what they weigh; then dP, dQ, dK, dV as far as wanted: of q, k and v, or of the three at once."""
        dq, dk, dv = wanted if len(wanted) == 3 else wanted * 3
        kv_heads, T, D = self.kv_heads or self.heads, self.length, self.width // self.heads
        queries, stack = self.heads // kv_heads * T, self.batch * kv_heads  # the queries of a group share their keys
        scores, weighted = (queries, D, T, stack), (queries, T, D, stack)
        summed = (T, queries, D, stack)  # dK and dV: over all queries of the group
        return [scores, weighted, *[scores] * (dq or dk), *[weighted] * dq, *[summed] * (dk + dv)]

    def _is_trained(self, name):
        if self.kind == "full" or self.target_modules == "all-linear":
            return True
        return any(f".{name}".endswith(f".{target}") for target in self.target_modules)

    def _fans(self, name):
        """How many channels a layer reads and writes."""
        C, inner = self.width, self.inner or 4 * self.width
        kv = C // self.heads * (self.kv_heads or self.heads)
        fans = {"c_attn": (C, 3 * C), "c_fc": (C, inner), "mlp.c_proj": (inner, C), "down_proj": (inner, C)}
        fans |= {"k_proj": (C, kv), "v_proj": (C, kv), "gate_proj": (C, inner), "up_proj": (C, inner)}
        return next((sizes for end, sizes in fans.items() if name.endswith(end)), (C, C))


GPT2 = {"vocab_size": 50257, "width": 768, "layers": 12, "heads": 12}
SMALL = {"vocab_size": 256, "width": 128, "layers": 4, "heads": 4}
SMOLLM2 = {"vocab_size": 49152, "width": 576, "layers": 30, "heads": 9, "kv_heads": 3, "inner": 1536}
SMOLLM2 |= {"architecture": "llama", "target_modules": "all-linear"}
LLAMA_1B = {"vocab_size": 128256, "width": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "inner": 8192, "rank": 16}
LLAMA_1B |= {"architecture": "llama", "target_modules": "all-linear"}

WORKLOADS = {
    "gpt2": Workload("GPT-2 124M, c_attn r=8, 4x128", **GPT2, batch=4, length=128),
    "small": Workload("4 layers x 128 wide, c_attn r=8, 32x128", **SMALL, batch=32, length=128, turns=8),
    "smollm2": Workload("SmolLM2-135M's shape, all-linear r=8, 4x128", **SMOLLM2, batch=4, length=128),
    "generate": Workload(
        "SmolLM2-135M's shape, greedy decoding, batch 1, prompt 16, 64 new tokens",
        **SMOLLM2, batch=1, length=16, new_tokens=64, kind="generate",
    ),
    "full": Workload(
        "4 layers x 128 wide, full training with SGD, 32x128", **SMALL, batch=32, length=128, turns=5, kind="full"
    ),
    "merged": Workload(
        "GPT-2 124M's shape, forward pass, c_attn r=8, 4x128", **GPT2, batch=4, length=128, turns=5, kind="merged"
    ),
}  # fmt: skip
