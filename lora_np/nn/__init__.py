"""Modules: a model as a tree of named parts."""

from . import printing, utils  # printing: last, it knows every layer
from .all_or_nothing import all_or_nothing
from .initial import filled, is_weightless, normal, uniform, uninitialized, weightless, zeros
from .layers import Conv1D, Dropout, Embedding, LayerNorm, Linear, RMSNorm
from .mode import evaluating
from .module import BufferDict, Module, ModuleDict, ModuleList, ParameterDict
from .nf4 import dequantize_nf4, quantize_nf4
from .parameter import Buffer, Parameter
from .quantized import Linear4bit, memory_footprint, quantize_model

__all__ = [
    "Buffer",
    "BufferDict",
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
    "all_or_nothing",
    "dequantize_nf4",
    "evaluating",
    "filled",
    "is_weightless",
    "memory_footprint",
    "normal",
    "printing",
    "quantize_model",
    "quantize_nf4",
    "uniform",
    "uninitialized",
    "utils",
    "weightless",
    "zeros",
]
