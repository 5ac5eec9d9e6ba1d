"""The workloads: a model, which layers get an adapter, and a batch. And the matrix products of one training step."""

from dataclasses import dataclass

ATTENTION_AND_MLP = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@dataclass(frozen=True)
class Workload:
    """One LoRA training step on GPT-2's architecture: forward, backward, AdamW; no dropout."""

    title: str
    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    batch: int
    length: int
    rank: int = 8
    target_modules: tuple = ("c_attn",)
    steps: int = 8

    def model_config(self):
        """The fields of config.json."""
        fields = ("vocab_size", "n_embd", "n_layer", "n_head")
        sizes = {name: getattr(self, name) for name in fields}
        off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return {**sizes, **off, "n_positions": 1024, "bos_token_id": 0, "eos_token_id": 0}

    def products(self):
        """[(m, k, n, repeats)]: the products (m, k) @ (k, n) that one step can not do without.

        Backward: dx of every layer above the lowest adapter, nothing for frozen weights; of the lowest adapted layer
        only its adapter. Attention's products are counted whole, its causal half not left out.
        """
        N, C, r, T = self.batch * self.length, self.n_embd, self.rank, self.length
        D, stack = C // self.n_head, self.batch * self.n_head
        layers = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)]
        found = [(N, C, self.vocab_size, 1), (N, self.vocab_size, C, 1)]
        for block in range(self.n_layer):
            found += [(T, D, T, stack), (T, T, D, stack)]  # scores, and what they weigh
            found += [(T, D, T, stack), *[(T, T, D, stack)] * 3]  # dP; dV, dQ, dK
            for i, (fan_in, fan_out) in enumerate(layers):
                adapted = ATTENTION_AND_MLP[i].rpartition(".")[2] in self.target_modules
                lowest = block == 0 and i == 0
                found.append((N, fan_in, fan_out, 1))
                if not lowest:
                    found.append((N, fan_out, fan_in, 1))
                if adapted:
                    found += [(N, fan_in, r, 1), (N, r, fan_out, 1), (N, fan_out, r, 1)]
                    found += [(r, N, fan_in, 1), (fan_out, N, r, 1)] + ([] if lowest else [(N, r, fan_in, 1)])
        return found


WORKLOADS = {
    "gpt2": Workload("GPT-2 124M, c_attn r=8, 4x128", 50257, 768, 12, 12, batch=4, length=128),
    "small": Workload("4 layers x 128 wide, c_attn r=8, 32x128", 256, 128, 4, 4, batch=32, length=128, steps=20),
}
