"""Drawings of training: the graph and its gradients, the loop, which tokens count, memory, and a GPU's time."""

import itertools
import statistics
from operator import attrgetter

from lora_np import Tensor
from lora_np.autograd.tensor import reachable
from lora_np.costs.memory import memory

from ..gpu import shipped
from .parts import GREEN, GREY, INK, MUTED, ORANGE, SOLID, Canvas

SIGNS = {"add": "+", "mul": "×", "sub": "−"}


def example():
    """{name: Tensor} of a = 1; b = a + a; c = b + b."""
    a = Tensor([1.0], requires_grad=True)
    b = a + a
    return {"a": a, "b": b, "c": b + b}


def walk(root):
    """[(node, its gradient, what goes on to each of its parents)] of a graph, in the order of the walk back."""
    grads, steps = {root: 1.0}, []
    for node in sorted(reachable(root), key=attrgetter("number"), reverse=True):
        sent = [] if node.leaf else [float(d.item()) for d in node.backward(root_like(grads[node]))]
        for parent, gradient in zip(node.parents, sent, strict=True):
            grads[parent] = grads.get(parent, 0.0) + gradient
        steps.append((node, grads[node], sent))
    return steps


def root_like(gradient):
    """The gradient as the one-element array that an operation's backward takes."""
    return Tensor([gradient]).data


def graph(named=None):
    """The graph that lora_np recorded, with its values, and the gradients that walk back through it.

    named: {name: Tensor of one value}, in the order of computation, the result last, and each made from the one before
    it by two edges. `backward` must not have been called. Left out, it is a = 1; b = a + a; c = b + b.
    ValueError for more than three, or another shape of graph.
    """
    named = named or example()
    nodes = [tensor.node() for tensor in named.values()]
    if len(nodes) > 3 or any(after.parents != (before, before) for before, after in itertools.pairwise(nodes)):
        raise ValueError("only up to three tensors are drawn, each made from the one before it by two edges")
    names = {tensor.node(): name for name, tensor in named.items()}
    steps, canvas = walk(list(named.values())[-1].node()), Canvas(330)
    place = {node: 40 + 200 * i for i, node in enumerate(names)}
    canvas.label(300, 66, "Each node: how it was made, its value, its gradient.", 15)
    told = []
    for number, (node, gradient, sent) in enumerate(steps, 1):
        name, x = names[node], place[node]
        value = f"{named[name].data.item():g}"
        sign = "leaf" if node.leaf else SIGNS[node.backward.__qualname__.split(".")[0]]
        attributes = f' data-node="{name}" data-gradient="{gradient:g}"'
        canvas.box(x, 105, 120, 110, "", "plain", data=attributes)
        canvas.label(x + 60, 126, f"{name}   ({sign})", 16)
        canvas.label(x + 60, 154, f"value {value}", 17, bold=True)
        canvas.label(x + 60, 188, f"gradient {gradient:g}", 17, colour=GREEN, bold=True)
        canvas.label(x + 60, 234, f"step {number} back", 15, colour=GREEN)
        _edges(canvas, place, names, node, sent)
        told.append(f"{number}. {name}, value {value}, gradient {gradient:g}")
    canvas.label(300, 268, "Black: how it was computed. Green: what walks back along each edge.", 15.5)
    canvas.label(300, 296, "Newest node first: by then, all that walks back to it has arrived.", 15.5)
    return canvas.drawing(
        "graph",
        "A graph, and the gradients that walk back",
        f"The graph of {', '.join(names.values())}, each made from the one before it by two edges. The walk visits the "
        f"newest node first: {'; '.join(told)}. A node's gradient is the sum of what comes back along its edges.",
    )


def _edges(canvas, place, names, node, sent):
    """The edges from a node's parents to it, one above and one below, each with the gradient that walks back."""
    for side, parent, gradient in zip((1, -1), node.parents, sent, strict=False):
        x0, x1, y = place[parent] + 120, place[node], 160 - 30 * side
        data = f' data-edge="{names[parent]}>{names[node]}"'
        canvas.arrow((x0 + 2, y), (x1 - 2, y), bend=9 * side, data=data)
        back = y + 14 * side
        middle = (x0 + x1) / 2
        canvas.arrow((x1 - 8, back), (middle + 12, back), colour=GREEN, width=1.5, head=False)
        canvas.arrow((middle - 12, back), (x0 + 8, back), colour=GREEN, width=1.5)
        canvas.label(middle, back, f"{gradient:g}", 16, colour=GREEN, bold=True)


def loop():
    """The steps of a training loop, and which weights they touch."""
    boxes = (
        (230, 48, "1. a batch", "data"),
        (400, 128, "2. forward", "plain"),
        (400, 218, "3. loss", "plain"),
        (230, 298, "4. backward", "gradient"),
        (60, 218, "5. optimizer", "trained"),
        (60, 128, "6. clear", "plain"),
    )
    canvas = Canvas(420)
    for x, y, text, kind in boxes:
        canvas.box(x, y, 140, 44, text, kind, 17)
    canvas.arrow((370, 70), (470, 70), (470, 126))
    canvas.arrow((470, 172), (470, 216))
    canvas.arrow((470, 262), (470, 320), (373, 320))
    canvas.arrow((230, 320), (130, 320), (130, 264))
    canvas.arrow((130, 218), (130, 175))
    canvas.arrow((130, 128), (130, 70), (227, 70))
    canvas.box(225, 130, 150, 40, "W: only read", "frozen", 15)
    canvas.box(225, 220, 150, 40, "A, B: changed", "trained", 15)
    canvas.arrow((375, 150), (398, 150), colour=GREY)
    canvas.arrow((202, 240), (222, 240), colour=ORANGE)
    canvas.label(
        300,
        374,
        "Backward gives gradients to A and B alone. The optimizer\nmoves them; then the gradients are cleared.",
        15,
    )
    return canvas.drawing(
        "loop",
        "One step of fine-tuning, again and again",
        "A circle of six steps: a batch; forward; the loss; backward; the optimizer; clearing the gradients; and "
        "the next batch. The base weights W are only read. A and B get gradients, and the optimizer changes them.",
    )


PROMPT, COMPLETION = ("Say", "hi", "in", "French", ":"), ("bon", "jour", "<end>")


def prompt_and_completion(prompt=PROMPT, completion=COMPLETION):
    """Which tokens count in the loss. prompt, completion: tokens, eight together."""
    tokens, canvas = (*prompt, *completion), Canvas(330)
    step, left = 508 / len(tokens), 82
    for i, token in enumerate(tokens):
        x, learnt = left + step * i, i >= len(prompt)
        canvas.box(x, 92, step - 5, 40, token, "data", 15.5)
        canvas.box(x, 176, step - 5, 40, token if learnt else "−100", "trained" if learnt else "empty", 15.5)
        if learnt:
            before = x - step / 2 - 4
            canvas.arrow((before, 134), (x + step / 2 - 10, 173), width=1.5, colour=ORANGE)
    canvas.label(74, 112, "input", 15, "end")
    canvas.label(74, 196, "labels", 15, "end")
    canvas.brace(left, 84, step * len(prompt) - 5, "prompt", "above", 15)
    canvas.brace(left + step * len(prompt), 84, step * len(completion) - 5, "completion", "above", 15)
    canvas.label(
        300, 248, f"−100: not counted. The loss is the mean over {len(completion)} tokens of {len(tokens)}.", 15
    )
    canvas.label(
        300,
        286,
        "Each token is predicted from the ones before it (arrows),\nso the last of the prompt predicts the first of "
        "the answer.",
        15,
    )
    return canvas.drawing(
        "prompt",
        "Only the completion is learnt",
        f"The input is the prompt, {' '.join(prompt)}, and the completion, {' '.join(completion)}. The labels are "
        "-100, which is not counted, below the prompt, and the tokens themselves below the completion. Each is "
        f"predicted from the tokens before it, so the loss is the mean over {len(completion)} tokens of "
        f"{len(tokens)}.",
    )


LLAMA_2_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
MEMORY_COLOURS = {
    "weights": SOLID["frozen"],
    "gradients": SOLID["gradient"],
    "optimizer": SOLID["trained"],
    "adapters": INK,
    "activations": SOLID["data"],
}


def training_memory(model="Llama-2-7B", config=LLAMA_2_7B, r=8, length=512):
    """Where memory goes in full training, LoRA and QLoRA, to scale, from `lora_np.costs.memory`.

    model: the config's name. r: the rank, on all linear layers. length: tokens of the one sequence in the batch.
    """
    methods = {"full": "Full training", "lora": "LoRA, 16-bit base", "qlora": "QLoRA, 4-bit base"}
    needs = {method: memory(config, r, "all-linear", length=length, method=method) for method in methods}
    scale, canvas, told = 552 / max(parts["total"] for parts in needs.values()), Canvas(450), []
    for i, (method, parts) in enumerate(needs.items()):
        y, x = 56 + 116 * i, 24
        canvas.label(24, y + 6, f"{methods[method]}: {parts['total'] / 1e9:.1f} GB", 17, "start", bold=True)
        for part, colour in MEMORY_COLOURS.items():
            width = parts[part] * scale
            attributes = f'class="bar" data-method="{method}" data-part="{part}"'
            canvas.add(f'<rect {attributes} x="{x:.3f}" y="{y + 22}" width="{width:.3f}" height="28" fill="{colour}"/>')
            x += width
        shown = [f"{part} {parts[part] / 1e9:.2f}" for part in MEMORY_COLOURS if parts[part]]
        _legend(canvas, y + 68, shown)
        told.append(f"{methods[method]} {parts['total'] / 1e9:.1f} GB ({', '.join(shown)})")
    canvas.label(300, 408, f"{model}, 1 × {length} tokens, r = {r} on all linear layers.", 15)
    canvas.label(300, 428, "In GB, from left to right in the order below each bar.", 15)
    return canvas.drawing(
        "memory",
        "Where the memory of a training step goes",
        f"Bars to scale for {model}, one sequence of {length} tokens, rank {r}, in GB: {'; '.join(told)}.",
    )


def _legend(canvas, y, shown):
    """Names in a line, each behind a square of its colour and above its number."""
    for i, text in enumerate(shown):
        (name, number), x = text.split(), 24 + 112 * i
        canvas.add(f'<rect x="{x:g}" y="{y - 5}" width="10" height="10" fill="{MEMORY_COLOURS[name]}"/>')
        canvas.label(x + 14, y, name, 14, "start")
        canvas.label(x + 14, y + 17, number, 14, "start")


def gpu_time(result=None):
    """Python hands out work, the GPU does it: what each takes in one step, from what `lora_course.gpu` measured."""
    result, canvas, told = result or shipped(), Canvas(390), []
    wanted = (("tiny-python", 62), ("GPT-2 124M", 196))
    rows = {(row["model"], row["device"], row["mode"]): row for row in result["times"]}
    for model, y in wanted:
        host = statistics.median(rows[model, "cuda", "float32"]["host"])
        step = statistics.median(rows[model, "cuda", "float32"]["milliseconds"])
        work = statistics.median(rows[model, "cuda", "float32, recorded"]["milliseconds"])
        scale = 330 / max(host, step, work)
        canvas.label(24, y, f"{model}: a step takes {step:.1f} ms", 17, "start", bold=True)
        for i, (name, ms, kind) in enumerate((("Python", host, "plain"), ("the GPU", work, "trained"))):
            top = y + 18 + 44 * i
            canvas.label(110, top + 16, name, 16, "end")
            canvas.box(120, top, ms * scale, 32, "", kind, data=f' data-model="{model}" data-ms="{ms}"')
            canvas.label(132 + ms * scale, top + 16, f"{ms:.1f} ms", 15, "start")
        told.append(f"{model}: Python {host:.1f} ms, the GPU {work:.1f} ms, a step {step:.1f} ms")
    canvas.label(
        300,
        330,
        "Python runs ahead and hands out work; the GPU follows.\nThe slower of the two sets the time of a step.",
        15,
    )
    canvas.label(
        300, 370, f"Measured in float32 on an {result['about']['gpu']}, 4,096 tokens a step.", 15.5, colour=MUTED
    )
    return canvas.drawing(
        "gpu",
        "Two workers: who waits for whom?",
        "Python, on the CPU, hands out the operations of a training step; the GPU does them at the same time. "
        f"Measured in float32 (the GPU alone: a recorded step), each model's bars to scale. {'; '.join(told)}. The "
        "slower of the two sets the time.",
    )
