"""`BitsAndBytesConfig`: how Transformers' users ask for a model in few bits, and what that is here."""

from dataclasses import dataclass
from typing import Any

from ... import nn
from ...autograd.devices import parse_device
from ...expect import expect
from ...keywords import NamedFields, Unused, check_unused

IN_8_BITS = "there are 4 bits (load_in_4bit=True) or all of them"
UNUSED = {
    "load_in_8bit": Unused(IN_8_BITS),
    "llm_int8_enable_fp32_cpu_offload": Unused(IN_8_BITS),
    "llm_int8_has_fp16_weight": Unused(IN_8_BITS),
    "bnb_4bit_quant_type": Unused("the 4-bit numbers here are NF4's, 'nf4'", ("nf4",)),
}


@dataclass
class BitsAndBytesConfig(NamedFields):
    """The settings of a 4-bit base model, under Transformers' names; see `nn.quantize_model`, which is what they mean.

    load_in_4bit               put the linear layers into 4 bits, in the NF4 format (Transformers' default is another)
    llm_int8_skip_modules      names of layers to leave alone; None: the output head
    bnb_4bit_use_double_quant  put the scales into 8 bits too
    The others are Transformers', and refused where they would do something. Products are computed in float32.
    """

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    llm_int8_threshold: float = 6.0
    llm_int8_skip_modules: list[str] | None = None
    llm_int8_enable_fp32_cpu_offload: bool = False
    llm_int8_has_fp16_weight: bool = False
    bnb_4bit_compute_dtype: Any = None
    bnb_4bit_quant_type: str | None = None
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_quant_storage: Any = None

    def __post_init__(self) -> None:
        check_unused("BitsAndBytesConfig", {name: getattr(self, name) for name in UNUSED}, UNUSED)
        for name in ("load_in_4bit", "bnb_4bit_use_double_quant"):
            expect(getattr(self, name), bool, name, "True or False")
        if self.bnb_4bit_compute_dtype is not None:
            nn.float_type(self.bnb_4bit_compute_dtype, "bnb_4bit_compute_dtype")


def wanted_bits(config: Any, load_in_4bit: bool | None) -> Any:
    """What `quantized` is told, of the two keywords of `from_pretrained` that say it. ValueError where both do."""
    if config is None:
        return BitsAndBytesConfig(load_in_4bit=False if load_in_4bit is None else load_in_4bit)
    if load_in_4bit is not None:
        raise ValueError("quantization_config and load_in_4bit both say how many bits there are: give one")
    return config


def quantized(model: Any, config: Any, device: str = "cpu") -> Any:
    """The model, in 4 bits if its config asks for that; made on `device`, weight by weight, if that is a GPU.

    config: a `BitsAndBytesConfig`, or a dict of its fields.
    """
    if isinstance(config, dict):
        config = BitsAndBytesConfig(**config)
    if not isinstance(config, BitsAndBytesConfig):
        raise TypeError(f"quantization_config should be a BitsAndBytesConfig, got {type(config).__name__}")
    if not config.load_in_4bit:
        return model
    skip = {} if config.llm_int8_skip_modules is None else {"skip": config.llm_int8_skip_modules}
    where = {} if parse_device(device) is None else {"device": device}
    return nn.quantize_model(model, double_quant=config.bnb_4bit_use_double_quant, **skip, **where)
