"""adapter_names while generating: each row writes what it writes alone with its adapter."""

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, peft_model, perturbed, tiny_llama, tiny_model

from lora_np import LoraConfig

MAKERS = {"gpt2": tiny_model, "llama": tiny_llama}
IDS, MASK = np.array([[1, 2, 3], [0, 4, 5], [6, 7, 8]]), [[1, 1, 1], [0, 1, 1], [1, 1, 1]]


@pytest.fixture(params=MAKERS)
def two(request):
    """A model with the adapters default and other, far from the base and from each other."""
    targets = ["c_attn", "wte", "wpe"] if request.param == "gpt2" else ["q_proj", "down_proj", "embed_tokens"]
    model = peft_model(targets, MAKERS[request.param]())
    model.add_adapter("other", LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    return perturbed(model, scale=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_k": 1, "num_return_sequences": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("padded", [True, False])
def test_each_row_goes_on_as_with_its_adapter_alone(two, options, padded):
    names, options = ["other", "__base__", "default"], {"max_new_tokens": 6, "eos_token_id": [], **options}
    if padded:
        options["attention_mask"] = MASK
    found = two.generate(IDS, adapter_names=names, **options)
    count = len(found) // 3
    for row, name in enumerate(names):
        if name == "__base__":
            with two.disable_adapter():
                expected = two.generate(IDS, **options)
        else:
            two.set_adapter(name)
            expected = two.generate(IDS, **options)
        rows = slice(row * count, (row + 1) * count)
        np.testing.assert_array_equal(found[rows], expected[rows])


def test_a_stream_keeps_its_rows_whatever_happens_between_its_tokens(two):
    names = ["other", "__base__", "default"]
    expected = two.generate(IDS, adapter_names=names, max_new_tokens=5, eos_token_id=[])
    found = []
    for step in two.stream(IDS, adapter_names=names, max_new_tokens=5, eos_token_id=[]):
        two.set_adapter("other")
        two(IDS)
        found.append(step)
    np.testing.assert_array_equal(np.stack(found, 1), expected[:, 3:])


def test_names_go_with_every_way_to_give_ids(two):
    names = ["other", "__base__", "default"]
    options = {"adapter_names": names, "max_new_tokens": 3}
    expected = two.generate(IDS, **options)
    np.testing.assert_array_equal(two.generate(input_ids=IDS, **options), expected)
    np.testing.assert_array_equal(two.generate(inputs=IDS, **options), expected)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["other"], ValueError, "adapter_names has 1 names: it needs one for each of 3 rows of input_ids"),
        (["other"] * 6, ValueError, "adapter_names has 6 names: it needs one for each of 3 rows of input_ids"),
        (["other", "nobody", "other"], KeyError, "no adapter 'nobody'"),
        (
            "other",
            TypeError,
            "should be a list of adapters' names, a name for each row, got a str: 'other'",
        ),
    ],
)
def test_names_that_do_not_fit_are_refused_at_once(two, names, error, message):
    for write in (two.generate, two.stream):
        with pytest.raises(error, match=message):
            write(IDS, adapter_names=names, max_new_tokens=3)


def test_rows_are_refused_while_merged(two):
    two.untie_weights()
    two.merge_adapter()
    with pytest.raises(RuntimeError, match="naming adapters row by row while default is merged"):
        two.generate(IDS, adapter_names=["other"] * 3, max_new_tokens=3)


@pytest.mark.parity
@pytest.mark.parametrize("beams", [1, 3])
def test_rows_are_pefts(two, beams, tmp_path):
    import peft
    import torch

    names = ["other", "__base__", "default"]
    two.save_pretrained(tmp_path)
    plain = MAKERS["gpt2" if two.config.model_type == "gpt2" else "llama"]()
    twin = peft.PeftModel.from_pretrained(hugging_face_twin(plain), tmp_path).eval()
    twin.load_adapter(tmp_path / "other", adapter_name="other")
    options = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0, "num_beams": beams}
    ids = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor(MASK)}
    expected = twin.generate(**ids, adapter_names=names, **options)
    found = two.generate(IDS, attention_mask=MASK, adapter_names=names, **options)
    np.testing.assert_array_equal(found, expected)
