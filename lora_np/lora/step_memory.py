"""What a LoRA step of this library holds in memory: the operations of a model, followed one by one.

Nothing is computed here. Each array of a block has a name and a size; each operation keeps some for its backward pass,
and others exist beside them while it runs, forward and backward. The most that ever exists at once is the answer.
`Block` has the operations: what they keep is what the docstrings in `autograd/fused/` say. `gpt2_block` and
`llama_block` put them in order: what exists beside is what the local variables in `models/gpt2.py` and
`models/llama.py` hold. Python's own objects and NumPy's buffers are left out: 10 to 50 kB.
"""

from collections import Counter
from typing import NamedTuple

from ..autograd.fused.attention import query_stripes
from ..autograd.fused.loss import CHUNK_BYTES, chunk_rows
from .sizes import PARTS, adapter_sizes, dimensions, model_size

FLOAT32 = 4
BLOCK_BYTES = 1 << 19  # that attention and elementwise operations work on at once (autograd/backend.py, `blocks`)
SILU = ("silu", "swish")


def this_library(config, r, target_modules=None, *, batch=1, length, dropout=0.0, shards=1):
    """`memory`'s dict for a LoRA step of this library, of GPT-2 or Llama on a CPU, everything in float32.

    dropout   LoraConfig's lora_dropout
    shards    how many parts of the batch are computed at the same time (autograd/threads.py). They are taken to reach
              their worst moments together, which is the most that can happen

    All tokens are taken to count in the loss; where only some do, it needs less.

    "activations" is the most that exists at once beside weights, gradients and optimizer: what the operations keep for
    the backward pass, and the temporary arrays of the moment. ValueError for another kind of model, and if the head
    has an adapter: its logits are then held whole, which is not followed here.
    """
    kind = config.get("model_type")
    if kind not in BLOCKS:
        known = " and ".join(BLOCKS)
        raise ValueError(f"this_library follows the operations of {known}; the config is of a {kind!r} model")
    adapters = adapter_sizes(config, r, target_modules)
    if "lm_head" in adapters:
        raise ValueError("this_library does not follow a head with an adapter")
    trained = sum(adapters.values())
    parts = {"weights": model_size(config), "adapters": trained, "gradients": trained, "optimizer": 2 * trained}
    places, shards = Counter(map(_place, adapters)), min(shards, batch)
    rows = [batch // shards + (i < batch % shards) for i in range(shards)]
    parts["activations"] = sum(_peak(config, places, r, dropout, n, length) for n in rows)
    parts = {part: FLOAT32 * round(numbers) for part, numbers in parts.items()}
    return {**parts, "total": sum(parts.values())}


def _place(name):
    """Where an adapted layer is: "transformer.h.3.attn.c_attn.q" -> (3, "attn.c_attn")."""
    path = name.split(".")
    block = next(i for i, part in enumerate(path) if part.isdecimal())
    return int(path[block]), ".".join(path[block + 1 : -1 if path[-1] in PARTS else None])


def _peak(config, adapters, r, dropout, batch, length):
    """The most numbers that exist at once. adapters: {(block, layer): how many}."""
    d, kind = dimensions(config), config["model_type"]
    stripes = _stripes(d, batch, length)
    sizes = _sizes(d, batch, length, stripes)
    angles = length * d["q"] // d["heads"] if kind == "llama" else 0  # cos and sin
    most, kept, needed = 0, angles, False  # no gradient is needed below the lowest adapter, so nothing is kept there
    for i in range(d["blocks"]):
        ranks = {layer: r * times for (block, layer), times in adapters.items() if block == i}
        block = Block(sizes, stripes, ranks, dropout, needed)
        BLOCKS[kind](block, config)
        most, kept, needed = max(most, kept + block.most), kept + block.held, "out" in block.needs
    return max(most, kept + _loss(d, batch, length))


def _sizes(d, batch, length, stripes):
    """{array: its numbers}, for all arrays that a block names.

    x comes in, m is the residual stream after attention, out leaves the block. In the MLP, `bent` is the activation's
    result and `wide` what the last layer reads.
    """
    rows = batch * length
    stream, inner = ("x", "normed_x", "attended", "m", "normed_m", "out"), ("gate", "up", "bent", "slope", "wide")
    sizes = dict.fromkeys(stream, rows * d["C"]) | dict.fromkeys(inner, rows * d["inner"])
    sizes |= dict.fromkeys(("q", "heads", "joined"), rows * d["q"]) | dict.fromkeys(("k", "v"), rows * d["kv"])
    sizes |= {"qkv": 3 * rows * d["C"], "E": sum(stripe.whole for stripe in stripes), "z": rows * d["heads"]}
    sizes |= {"mask": batch * d["heads"] * length * length, "future": stripes[0].queries ** 2}
    for name, of in (("some_E", "some"), ("twice_E", "twice"), ("some_q", "some_q")):
        sizes[name] = max(getattr(stripe, of) for stripe in stripes)
    # Activations work in strips. GELU needs two beside each; of SwiGLU's one, the last is freed once the next is there.
    inner, strip = rows * d["inner"], BLOCK_BYTES // FLOAT32
    sizes |= {"gelu_strips": 2 * min(inner, strip), "swiglu_strips": min(inner, 2 * strip)}
    return sizes | {"row": rows}


class Stripe(NamedTuple):
    """One of attention's stripes of queries: how many, and the numbers of its E and of what exists meanwhile.

    It takes `some` of the batch at a time; what it made the time before is freed once the next is there, so that E's
    numbers may exist `twice`. All stripes but the last, which has every key, make gradients of k and v of their own.
    """

    queries: int
    whole: int
    some: int
    twice: int
    some_q: int
    part_of_k: int


def _stripes(d, batch, length):
    """The `Stripe`s of one layer's attention."""
    found = []
    for t, s in query_stripes(length, length, causal=True):
        queries, keys = t.stop - t.start, s.stop
        scores = d["heads"] * queries * keys
        some = min(batch, max(1, BLOCK_BYTES // (FLOAT32 * scores)))
        part = batch * keys * d["kv"] if keys < length else 0
        sizes = batch * scores, some * scores, min(2 * some, batch) * scores
        found.append(Stripe(queries, *sizes, some * queries * d["q"], part))
    return found


def _loss(d, batch, length):
    """The last norm's x̂ and 1/σ, its result, the gradient of that, both again for the rows that count, and logits."""
    rows, counted = batch * length, batch * (length - 1)  # the last position has no target
    chunk = chunk_rows(counted, FLOAT32 * d["V"], CHUNK_BYTES) * d["V"]
    return rows * (3 * d["C"] + 1) + 2 * counted * d["C"] + chunk


class Block:
    """One block of a model while its operations run: what is kept, by name, and the most that existed at once.

    kept     {array: its numbers} that wait for the backward pass. What two operations keep counts once
    needs    the arrays whose gradients are asked for
    most     the numbers at the worst moment so far, forward or backward

    `forward` names the arrays that exist beside an operation's input and result, `backward` those whose gradients wait
    beside its own. Names that are kept anyway, or whose gradient nobody needs, do no harm.
    """

    def __init__(self, sizes, stripes, ranks, dropout, needed):
        self.sizes, self.stripes, self.ranks, self.dropout = sizes, stripes, ranks, dropout
        self.kept, self.needs, self.most = {}, {"x"} if needed else set(), 0

    @property
    def held(self):
        """The numbers kept."""
        return sum(self.kept.values())

    def norm(self, x, y, forward="", backward=""):
        """x̂ ∘ w. Keeps x̂ and 1/σ."""
        normed, needed = self.sizes[x] + self.sizes["row"], x in self.needs
        if needed:
            self.kept[f"norm of {x}"] = normed
        self._run([x], y, forward, backward, 0 if needed else normed)

    def linear(self, layer, x, y, forward="", backward=""):
        """x Wᵀ. With an adapter: keeps x and h = x Aᵀ; with dropout on that, what is left of x, and the mask."""
        if layer not in self.ranks:
            self._run([x], y, forward, backward)
            return
        mask, needed = self.sizes[x] if self.dropout else 0, x in self.needs
        h = self.kept[f"h of {layer}"] = self.ranks[layer] * self.sizes["row"]
        if mask:
            self.kept[f"input of {layer}"] = self.sizes[x] + (mask if needed else 0)
        else:
            self._keep(x)
        branch = self.sizes[y] + h + (0 if needed else mask)
        self._run([x], y, forward, backward, branch, self.sizes[x] + h if needed else h, trained=True)

    def attention(self, inputs, y, dropout, forward="", backward=""):
        """softmax(Q Kᵀ) V. Keeps E, z, its dropout mask, and of q, k and v what the gradients of the others need."""
        needed, kept = self.needs & set(inputs), ["E", "z", "mask"] if dropout else ["E", "z"]
        if needed:
            self._keep(*kept, *(x for x in inputs if needed & USED_FOR[x]))
        forward += " future some_q" + (" mask some_E" if dropout else "") + ("" if needed else " twice_E")
        self._run(inputs, y, forward, backward, 0, max(self._backward_work(s, needed, dropout) for s in self.stripes))

    def _backward_work(self, stripe, needed, dropout):
        """What attention's backward pass makes: dO / z; beside it dS, an earlier one for a moment, then s Q for dK or a
        group's dQ; or mask∘E; and the stripe's own dK and dV."""
        for_k, grouped = needed & {"k", "qkv"}, self.sizes["q"] != self.sizes["k"]
        beside = stripe.some_q if for_k or (grouped and "q" in needed) else 0
        work = max(stripe.twice, stripe.some + beside) if needed - {"v"} else stripe.some if dropout else 0
        return stripe.some_q + work + stripe.part_of_k * (bool(for_k) + bool(needed & {"v", "qkv"}))

    def activation(self, kind, x, y, forward="", backward=""):
        """f(x). Keeps its slope: for ReLU in a byte each; tanh keeps its result, from which the slope follows.

        GELU works in strips; SiLU and tanh make whole arrays on the way.
        """
        if x in self.needs and kind == "tanh":
            self._keep(y)
        elif x in self.needs and kind != "linear":
            self.kept[f"slope at {x}"] = self.sizes[x] / (FLOAT32 if kind == "relu" else 1)
        arrays = 2 * self.sizes[x] if kind in SILU else 0, self.sizes[x] if kind == "tanh" else 0
        self._run([x], y, forward, backward, *arrays)

    def product(self, a, b, saved, y, forward="", backward=""):
        """a ∘ b, or silu(a) ∘ b. `saved`: what the gradients of a and b are made of; keeps those that are needed."""
        self._keep(*(kept for x, kept in zip((a, b), saved, strict=True) if x in self.needs))
        self._run([a, b], y, forward, backward)

    def dropout_of(self, x, p, forward="", backward=""):
        """mask ∘ x in the place of x. Keeps the mask."""
        if p and x in self.needs:
            self.kept[f"mask of {x}"] = self.sizes[x]
        if p:
            self._run([x], x, forward, backward, 2 * self.sizes[x])

    def same(self, inputs, y):
        """Adding and reshaping: nothing is kept, and gradients pass through."""
        if self.needs & set(inputs):
            self.needs.add(y)

    def _keep(self, *names):
        self.kept |= {name: self.sizes[name] for name in names}

    def _run(self, inputs, y, forward, backward, forward_work=0, backward_work=0, trained=False):
        """Note what exists in the forward pass of an operation and, if there is one, in its backward pass."""
        alive = {*inputs, y, *forward.split()} - set(self.kept)
        self.most = max(self.most, self.held + self._numbers(alive) + forward_work)
        needed = [x for x in inputs if x in self.needs]
        if needed or trained:
            self.needs.add(y)
            waiting = [x for x in backward.split() if x in self.needs]
            self.most = max(self.most, self.held + self._numbers([y, *needed, *waiting]) + backward_work)

    def _numbers(self, names):
        return sum(self.sizes[name] for name in names)


def gpt2_block(block, config):
    """GPT2Block's operations. While the gradient goes through attention or MLP, that of the stream waits: dx or dm."""
    p, kind = config.get("resid_pdrop", 0.1), config.get("activation_function", "gelu_new")
    x, m = ("x", "m") if p else ("", "")  # without dropout, c_proj's dy and the stream's gradient are one array
    block.norm("x", "normed_x", "x", "m")
    block.linear("attn.c_attn", "normed_x", "qkv", "x", "x")
    block.attention(["qkv"], "heads", config.get("attn_pdrop", 0.1), "x normed_x", "x")
    block.linear("attn.c_proj", "heads", "attended", "x normed_x qkv", x)
    block.dropout_of("attended", p, "x normed_x qkv heads")
    block.same(["x", "attended"], "m")
    block.norm("m", "normed_m", "x", "out")
    block.linear("mlp.c_fc", "normed_m", "up", "x m", "m")
    strips = " gelu_strips" if kind.startswith("gelu") else ""
    block.activation(kind, "up", "wide", f"x m normed_m{strips}", "m")
    block.linear("mlp.c_proj", "wide", "out", "x m normed_m", m)
    block.dropout_of("out", p, "x m normed_m")
    block.same(["m"], "out")


def llama_block(block, config):
    """LlamaDecoderLayer's operations, but for the turning of q and k: it keeps nothing, and attention takes more."""
    kind = config.get("hidden_act", "silu")
    block.norm("x", "normed_x", "x", "m")
    block.linear("self_attn.q_proj", "normed_x", "q", "x", "x normed_x")
    block.linear("self_attn.k_proj", "normed_x", "k", "x q", "x q normed_x")
    block.linear("self_attn.v_proj", "normed_x", "v", "x q k", "x q k")
    block.attention(["q", "k", "v"], "heads", config.get("attention_dropout", 0.0), "x normed_x", "x")
    block.same(["heads"], "joined")
    block.linear("self_attn.o_proj", "joined", "attended", "x normed_x q k v heads")
    block.same(["x", "attended"], "m")
    block.norm("m", "normed_m", "x", "out")
    block.linear("mlp.gate_proj", "normed_m", "gate", "x m", "m normed_m")
    block.linear("mlp.up_proj", "normed_m", "up", "x m gate", "m gate")
    if kind in SILU:
        block.product("gate", "up", ("slope", "bent"), "wide", "x m normed_m swiglu_strips", "m")
    else:
        block.activation(kind, "gate", "bent", "x m normed_m up", "m up")
        block.product("bent", "up", ("up", "bent"), "wide", "x m normed_m gate", "m")
    block.linear("mlp.down_proj", "wide", "out", "x m normed_m gate up")
    block.same(["m"], "out")


USED_FOR = {"q": {"k"}, "k": {"q"}, "v": {"q", "k"}, "qkv": {"qkv"}}  # what is kept for whose gradient
BLOCKS = {"gpt2": gpt2_block, "llama": llama_block}
