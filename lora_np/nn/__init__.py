"""Modules: a model as a tree of named parts."""

from .layers import Conv1D, Dropout, Embedding, LayerNorm, Linear, RMSNorm, filled, normal, uninitialized, weightless
from .module import Buffer, Module, ModuleDict, ModuleList, Parameter, ParameterDict
from .nf4 import dequantize_nf4, quantize_nf4
from .quantized import Linear4bit, memory_footprint, quantize_model

__all__ = [
    "Buffer",
    "Conv1D",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Linear4bit",
    "Module",
    "ModuleDict",
    "ModuleList",
    "Parameter",
    "ParameterDict",
    "RMSNorm",
    "dequantize_nf4",
    "filled",
    "memory_footprint",
    "normal",
    "quantize_model",
    "quantize_nf4",
    "uninitialized",
    "weightless",
]
