"""An adapter at a fraction of its weight: what the model writes, and its loss, from below 0 to above 1."""

from lora_np import evaluate
from lora_np.lora.layer import AdaptedLayer

from .widget import Widget, table

WEIGHTS = tuple(round(0.1 * i, 1) for i in range(-5, 16))
PROMPTS = ("The value of ", "def area(width, height):\n")


def at_weight(model, adapter, weight):
    """Let this adapter's update count `weight` times in every layer: ΔW becomes weight · s B A."""
    for layer in model.modules():
        if isinstance(layer, AdaptedLayer) and adapter in layer.adapters:
            layer.adapters[adapter].rescale(weight)


def mixing_slider(model, tokenizer, adapter, held_out, prompts=PROMPTS, weights=WEIGHTS, tokens=60):
    """A slider over the weight of an adapter, with live text: computed here, at every weight.

    model     with the adapter, unmerged; afterwards the adapter is at weight 1, and those are active that were
    held_out  {name: windows of token ids}: texts to measure the loss on, in nats per byte
    tokens    that are written after each prompt, the most likely one each time
    """
    before = model.active_adapters
    model.set_adapter(adapter)
    model.eval()
    losses, texts = {name: [] for name in held_out}, [[] for _ in prompts]
    try:
        for weight in weights:
            at_weight(model, adapter, weight)
            for name, windows in held_out.items():
                losses[name].append(round(float(evaluate(model, windows)), 4))
            for found, prompt in zip(texts, prompts, strict=True):
                found.append(_written(model, tokenizer, prompt, tokens))
    finally:
        at_weight(model, adapter, 1.0)
        model.set_adapter(before)
    data = {"weights": weights, "losses": losses, "prompts": prompts, "texts": texts, "adapter": adapter}
    return Widget("mixing", data, f"How much of the adapter {adapter!r}?", _static(data))


def _written(model, tokenizer, prompt, tokens):
    ids = tokenizer(prompt, return_tensors="np")["input_ids"]
    out = model.generate(input_ids=ids, max_new_tokens=tokens, do_sample=False, eos_token_id=[])
    return tokenizer.decode(out[0][ids.shape[1] :])


def _static(data):
    shown = [i for i, weight in enumerate(data["weights"]) if round(2 * weight) == 2 * weight]
    rows = [
        (data["weights"][i], *(f"{values[i]:.3f}" for values in data["losses"].values()), data["texts"][0][i])
        for i in shown
    ]
    head = ("weight", *(f"loss on {name}" for name in data["losses"]), f"after {data['prompts'][0]!r}")
    return table("What the model writes at some weights of the adapter", head, rows)
