"""The settings that are fields of LoraConfig: under PEFT's names, and given as objects or as dicts."""

import dataclasses

import pytest
from lora_helpers import refusal

import lora_np
from lora_np import LoraConfig
from lora_np.lora.sub_configs import SUB_CONFIGS

EACH = pytest.mark.parametrize(("field", "kind"), SUB_CONFIGS.items())


@EACH
@pytest.mark.parity
def test_fields_and_defaults_are_pefts_in_its_order(field, kind):
    from peft.tuners.lora import config

    ours, theirs = (
        [(f.name, f.default, f.init) for f in dataclasses.fields(one)] for one in (kind, getattr(config, kind.__name__))
    )
    assert ours == theirs


@EACH
def test_given_as_an_object_or_a_dict(field, kind):
    config = LoraConfig(**{field: kind()})
    assert LoraConfig(**{field: dataclasses.asdict(kind())}) == config
    assert LoraConfig.from_dict(config.to_dict()) == config
    assert getattr(lora_np, kind.__name__) is getattr(lora_np.lora, kind.__name__) is kind
    assert repr(kind()) == f"{kind.__name__}()"


@EACH
@pytest.mark.parametrize("wrong", [True, 3, "x", ["a"]])
def test_what_is_neither(field, kind, wrong, tmp_path):
    message = f"{field} must be a {kind.__name__}, or a dict of its fields"
    assert message in refusal(ValueError, lambda: LoraConfig(**{field: wrong}))
    assert message in refusal(ValueError, lambda: LoraConfig.from_dict({field: wrong}, "some/file"))
    assert "some/file" in refusal(ValueError, lambda: LoraConfig.from_dict({field: {"no_such": 1}}, "some/file"))


@pytest.mark.parity
def test_what_says_how_to_run_changes_nothing():
    import peft

    given = lora_np.LoraRuntimeConfig(ephemeral_gpu_offload=True)
    assert dataclasses.asdict(given) == dataclasses.asdict(peft.LoraRuntimeConfig(ephemeral_gpu_offload=True))
    assert "runtime_config" not in LoraConfig(runtime_config=given).to_dict()
    assert "ephemeral_gpu_offload must be True or False" in refusal(ValueError, lambda: lora_np.LoraRuntimeConfig(1))
