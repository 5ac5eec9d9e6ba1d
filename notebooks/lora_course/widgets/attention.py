"""What each head of a model looks at, for a short text: one weight for every pair of tokens."""

import numpy as np

from lora_np import no_grad
from lora_np.models import AutoModelForCausalLM, AutoTokenizer
from lora_np.models.loading.auto import TINY_PYTHON

from .widget import Widget, packed, table

TEXT = "def area(width, height):\n    return width * height\n"
MOST = 96  # characters: more do not fit the page


def attention_of(model, ids):
    """Attention weights of a GPT-2 for ids (T,): an array (blocks, H, T, T); each row adds up to 1."""
    kept, parts = [], [block.attn.c_attn for block in model.transformer.h]
    for part in parts:
        part.forward = _keeping(part.forward, kept)
    try:
        with no_grad():
            model(input_ids=np.asarray(ids)[None])
    finally:
        for part in parts:
            del part.forward
    heads = [block.attn for block in model.transformer.h]
    return np.array([_weights(qkv, attn.heads, attn.scale) for qkv, attn in zip(kept, heads, strict=True)])


def _keeping(forward, kept):
    def keeping(x):
        result = forward(x)
        kept.append(result.numpy()[0])  # (T, 3C)
        return result

    return keeping


def _weights(qkv, heads, scale):
    q, k, _ = (part.reshape(len(qkv), heads, -1).swapaxes(0, 1) for part in np.split(qkv, 3, axis=-1))
    scores = q @ k.swapaxes(1, 2) * scale
    scores = np.where(np.tri(len(qkv), dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)  # (H, T, T)


def attention_view(text=TEXT, maps=None, start=(1, 0)):
    """A text whose letters show, when pointed at, where the chosen head looks from there.

    maps: weights (blocks, H, T, T) with a row for each letter; those of tiny-python if left out. `start` is the block
    and the head that are shown first. ValueError for more than 96 letters, and for maps of another length.
    """
    if not 0 < len(text) <= MOST or not text.isascii():
        raise ValueError(f"text must have 1 to {MOST} ASCII letters, got {len(text)}")
    if maps is None:
        model = AutoModelForCausalLM.from_pretrained(TINY_PYTHON).eval()
        maps = attention_of(model, AutoTokenizer.from_pretrained(TINY_PYTHON).encode(text))
    maps = np.asarray(maps)
    if maps.ndim != 4 or maps.shape[2:] != (len(text), len(text)):
        raise ValueError(f"maps must be (blocks, heads, {len(text)}, {len(text)}), got {maps.shape}")
    rows, columns = np.tril_indices(len(text))
    here = max(0, text.rstrip().rfind("eight") + 1) or len(text) - 1
    data = {"text": text, "blocks": maps.shape[0], "heads": maps.shape[1], "start": list(start), "here": here}
    data["weights"] = packed(maps[:, :, rows, columns], 1.0)  # what the mask leaves, row by row
    return Widget("attention", data, "What does a head look at?", _static(text, maps, here))


def _static(text, maps, here):
    """Where every head looks most from one letter."""
    rows = []
    for block, head in np.ndindex(maps.shape[:2]):
        found = int(maps[block, head, here].argmax())
        share = f"{maps[block, head, here, found]:.2f}"
        rows.append((f"{block}, {head}", repr(text[found]), found, share))
    caption = f"From {text[here]!r}, position {here} of {text!r}, each head looks most at:"
    return table(caption, ("block, head", "letter", "position", "share"), rows)
