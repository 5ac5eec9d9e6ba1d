"""Modules: a model as a tree of named parts."""

from . import functional, init, printing, utils
from .activations import GELU, Identity, LogSoftmax, ReLU, SiLU, Softmax, Tanh
from .all_or_nothing import all_or_nothing
from .beside import beside
from .float_type import float_type
from .grouped import GroupedLinear4bit
from .initial import filled, is_weightless, normal, uniform, uninitialized, weightless, zeros
from .layers import Conv1D, Dropout, Embedding, LayerNorm, Linear, RMSNorm
from .losses import CrossEntropyLoss, MSELoss, NLLLoss
from .mode import evaluating
from .module import BufferDict, Module, ModuleDict, ModuleList, ParameterDict, Sequential
from .nf4 import dequantize_nf4, quantize_nf4
from .parameter import Buffer, Parameter
from .quantized import FourBitLayer, Linear4bit, memory_footprint, quantize_model

__all__ = [
    "GELU",
    "Buffer",
    "BufferDict",
    "Conv1D",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "FourBitLayer",
    "GroupedLinear4bit",
    "Identity",
    "LayerNorm",
    "Linear",
    "Linear4bit",
    "LogSoftmax",
    "MSELoss",
    "Module",
    "ModuleDict",
    "ModuleList",
    "NLLLoss",
    "Parameter",
    "ParameterDict",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Softmax",
    "Tanh",
    "all_or_nothing",
    "beside",
    "dequantize_nf4",
    "evaluating",
    "filled",
    "float_type",
    "functional",
    "init",
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
