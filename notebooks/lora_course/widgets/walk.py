"""A backward of lora_np, one node after another: what arrives at each, and what it hands on."""

from lora_np import Tensor
from lora_np.autograd.tensor import reachable

from .widget import Widget, table


def loss_of_a_weight():
    """L = (w x - t)²."""
    w, x, t = (Tensor(value, requires_grad=True) for value in (3.0, 2.0, 5.0))
    y = w * x
    e = y - t
    loss = e * e
    return {"w": w, "x": x, "t": t, "y": y, "e": e, "L": loss}, {"y": "w · x", "e": "y − t", "L": "e · e"}


def used_twice():
    """c = b + b, b = a + a."""
    a = Tensor(1.0, requires_grad=True)
    b = a + a
    return {"a": a, "b": b, "c": b + b}, {"b": "a + a", "c": "b + b"}


def with_lora():
    """L = (w x + b a x - t)²: w, x and t are frozen, a and b are trained."""
    w, x, t = Tensor(3.0), Tensor(2.0), Tensor(5.0)
    a, b = Tensor(0.5, requires_grad=True), Tensor(0.25, requires_grad=True)
    z = a * x
    u = b * z
    h = w * x + u
    e = h - t
    named = {"a": a, "b": b, "z": z, "u": u, "h": h, "e": e, "L": e * e}
    return named, {"z": "a · x", "u": "b · z", "h": "w · x + u", "e": "h − t", "L": "e · e"}


EXAMPLES = {
    "L = (w·x − t)², w = 3, x = 2, t = 5": loss_of_a_weight,
    "b = a + a, c = b + b": used_twice,
    "LoRA: L = (w·x + b·a·x − t)², w, x, t frozen": with_lora,
}


def trace(named, formulas):
    """The walk back from the last of the named tensors, as the engine does it.

    named: {name: Tensor}, in the order in which they were made. Returns {"nodes": [{name, formula, value, parents}],
    "steps": [{node, arrived, given: [[name, gradient]]}]}: the steps are taken by lora_np's own `backward`, whose
    functions are watched. Leaves take what arrives. ValueError where a node of the graph has no name.
    """
    last = list(named.values())[-1]
    names = {tensor.node(): name for name, tensor in named.items()}
    if any(node not in names for node in reachable(last.node())):
        raise ValueError("every tensor of the graph must have a name")
    nodes = [
        {
            "name": name,
            "formula": formulas.get(name, ""),
            "value": float(tensor.data),
            "parents": [names[p] for p in tensor.node().parents if p is not None],
        }
        for name, tensor in named.items()
    ]
    steps = []
    for node in reachable(last.node()):
        if node.leaf is None:
            node.backward = _watched(node, names, steps)
    numbers = {name: tensor.node().number for name, tensor in named.items()}
    last.backward()
    leaves = {name: tensor.grad for name, tensor in named.items() if tensor.grad is not None}
    steps += [{"node": name, "arrived": float(grad), "given": []} for name, grad in leaves.items()]
    return {"nodes": nodes, "steps": sorted(steps, key=lambda step: -numbers[step["node"]])}  # newest first


def _watched(node, names, steps):
    backward, parents, name = node.backward, node.parents, names[node]

    def watched(dy):
        gradients = backward(dy)
        given = [[names[p], float(g)] for p, g in zip(parents, gradients, strict=True) if p is not None]
        steps.append({"node": name, "arrived": float(dy), "given": given})
        return gradients

    return watched


def gradient_walk(examples=None):
    """The graph of a small expression, and buttons that take its backward step by step.

    examples: {title: function that returns (named tensors, formulas)}, EXAMPLES if left out.
    """
    walks = [{"title": title, **trace(*make())} for title, make in (examples or EXAMPLES).items()]
    first = walks[0]
    rows = [(s["node"], f"{s['arrived']:g}", _given(s)) for s in first["steps"]]
    static = table(f"The walk back of {first['title']}", ("visited", "gradient", "hands on"), rows)
    return Widget("walk", {"walks": walks}, "The walk back, step by step", static)


def _given(step):
    return ", ".join(f"{value:g} to {name}" for name, value in step["given"]) or "a leaf: keeps it in .grad"
