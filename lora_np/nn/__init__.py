"""Modules: a model as a tree of named parts."""

from .all_or_nothing import all_or_nothing
from .float_type import float_type
from .initial import filled, is_weightless, normal, uniform, uninitialized, weightless, zeros
from .layers import Conv1D, Dropout, Embedding, LayerNorm, Linear, RMSNorm
from .mode import evaluating
from .module import Buffer, BufferDict, Module, ModuleDict, ModuleList, Parameter, ParameterDict
from .nf4 import dequantize_nf4, quantize_nf4
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
    "float_type",
    "is_weightless",
    "memory_footprint",
    "normal",
    "quantize_model",
    "quantize_nf4",
    "uniform",
    "uninitialized",
    "weightless",
    "zeros",
]
