"""GGUF's tensors as the models want them: the layouts that differ, besides names.

The rows of Llama's query and key weights stand in another order, because there the channels that turn together are
neighbours (SmolLM3's, too). GPT-2's weights are stored (out, in), not (in, out) as Conv1D wants. GPT-NeoX's joint
projection has the queries of all heads first, then all keys, then all values. Gemma's norms are stored with 1 added.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...storage.tensors import TensorFile
from .gguf_config import config_from_gguf
from .gguf_names import NO_WEIGHTS, hugging_face_name

__all__ = ["GGUFWeights", "config_from_gguf", "hugging_face_name", "rows_by_head", "rows_for_halves"]

SIDE_BY_SIDE = ("llama", "smollm3")  # architectures whose rotary partners are neighbours
WITH_ONE = ("gemma2", "gemma3")  # those whose norms have 1 added


class GGUFWeights:
    """The tensors of an open GGUF file as the model wants them: `shapes` {name: shape} and `read_into(name, out)`."""

    def __init__(self, file: TensorFile, fields: Mapping[str, Any]) -> None:
        self.file, self.fields = file, fields
        kind, architecture = fields["model_type"], file.metadata["general.architecture"]
        self.names = {hugging_face_name(architecture, name): name for name in file.shapes if name not in NO_WEIGHTS}
        self.transposed = re.compile(r"c_(attn|proj|fc)\.weight$" if kind == "gpt2" else "(?!)")
        heads = {"q_proj": fields.get("num_attention_heads"), "k_proj": fields.get("num_key_value_heads")}
        self.heads = heads if architecture in SIDE_BY_SIDE else {}
        self.one_less = re.compile(r"norm\.weight$" if architecture in WITH_ONE else "(?!)")
        self.joint = {"query_key_value": fields.get("num_attention_heads")}
        self.shapes = {name: self._shape(name) for name in self.names}

    def _shape(self, name):
        shape = self.file.shapes[self.names[name]]
        return shape[::-1] if self.transposed.search(name) else shape

    def read_into(self, name: str, out: np.ndarray) -> None:
        """Fill `out` with a tensor."""
        layer = name.split(".")[-2]
        if heads := self.heads.get(layer):
            out[...] = rows_for_halves(self.file.read(self.names[name]), heads)
        elif heads := self.joint.get(layer):
            out[...] = rows_by_head(self.file.read(self.names[name]), heads)
        elif self.one_less.search(name):
            np.subtract(self.file.read(self.names[name]), 1, out=out)
        else:
            self.file.read_into(self.names[name], out.T if self.transposed.search(name) else out)


def rows_for_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from the order 0, D/2, 1, D/2 + 1, ... (partners side by side) to 0, 1, ..., D - 1 (in halves).

    weight (H·D, in), or a bias (H·D,).
    """
    shape = weight.shape
    return weight.reshape(heads, -1, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def rows_by_head(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of all queries, then all keys, then all values, to those of each head side by side.

    weight (3·H·D, in), or a bias (3·H·D,).
    """
    shape = weight.shape
    return weight.reshape(3, heads, -1, *shape[1:]).swapaxes(0, 1).reshape(shape)
