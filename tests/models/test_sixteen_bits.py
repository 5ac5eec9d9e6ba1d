"""Models in bfloat16: what they compute, what they keep, what their files hold; on a CPU and on a GPU."""

import json

import numpy as np
import pytest
from lora_helpers import relative, some_ids, tiny_llama, tiny_model

from lora_np import AdamW, AutoModelForCausalLM, LoraConfig, get_peft_model, manual_seed, nn
from lora_np.nn import memory_footprint, quantize_model
from lora_np.storage import open_safetensors

pytest.importorskip("ml_dtypes")
gpu = pytest.mark.gpu
BFLOAT16 = nn.float_type("bfloat16")
MODELS = {"gpt2": tiny_model, "llama": tiny_llama}


@pytest.fixture(params=list(MODELS))
def model(request):
    return MODELS[request.param]()


def adapted(model, **options):
    manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **options)
    return get_peft_model(model, config).train()


def losses_and_gradients(model, device="cpu", steps=3):
    ids = some_ids(model.config)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses, first = [], None
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        first = first or {name: p.grad.copy() for name, p in model.named_parameters() if p.requires_grad}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {name: np.asarray(d if isinstance(d, np.ndarray) else d.get()) for name, d in first.items()}


def test_on_a_cpu_it_computes_what_its_weights_in_float32_do(model):
    narrow = model.to("bfloat16")
    ids, size = some_ids(model.config), memory_footprint(model)
    assert narrow.dtype == BFLOAT16
    logits = narrow(input_ids=ids).logits
    assert logits.dtype == np.float32
    wide = model.float()
    assert memory_footprint(wide) == 2 * size
    np.testing.assert_allclose(logits.data, wide(input_ids=ids).logits.data, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"lora_dropout": 0.2}])
def test_adapters_beside_it_learn_in_float32_what_they_learn_beside_float32(model, options):
    rounded = {name: array.astype(BFLOAT16) for name, array in model.state_dict().items()}
    model.load_state_dict({name: array.astype(np.float32) for name, array in rounded.items()})
    beside_float32 = losses_and_gradients(adapted(model, **options))
    other = MODELS["gpt2" if "wte" in " ".join(rounded) else "llama"]()
    other.to(BFLOAT16).load_state_dict(rounded)
    found = losses_and_gradients(adapted(other, **options))
    np.testing.assert_allclose(found[0], beside_float32[0], rtol=1e-4)
    for name, d in found[1].items():
        assert d.dtype == np.float32
        assert relative(d, beside_float32[1][name]) < 1e-3, name


def test_merging_rounds_the_sum_once(model):
    peft_model = adapted(model.to("bfloat16"))
    layer = next(m for m in peft_model.modules() if hasattr(m, "get_delta_weight") and hasattr(m, "base_layer"))
    before, delta = layer.base_layer.weight.data.astype(np.float32), layer.get_delta_weight("default")
    peft_model.merge_adapter()
    assert layer.base_layer.weight.dtype == BFLOAT16
    np.testing.assert_array_equal(layer.base_layer.weight.data, (before + delta).astype(BFLOAT16))


def test_files_hold_16_bits_and_say_so(model, tmp_path):
    narrow = model.to("bfloat16")
    narrow.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    with open_safetensors(tmp_path / "model.safetensors") as file:
        assert {tensor.coding.name for tensor in file.tensors.values()} == {"BF16"}
    for dtype, kind in (("bfloat16", BFLOAT16), (None, np.float32)):
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        assert again.dtype == kind
        for name, array in again.state_dict().items():
            np.testing.assert_array_equal(array.astype(np.float32), narrow.state_dict()[name].astype(np.float32))


@pytest.mark.parity
def test_transformers_has_the_same_logits_within_bfloat16s_rounding(model, tmp_path):
    import torch
    import transformers

    model.to("bfloat16").save_pretrained(tmp_path)
    theirs, ids = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval(), some_ids(model.config)
    assert theirs.dtype == torch.bfloat16
    with torch.no_grad():
        narrow = theirs(torch.tensor(ids)).logits.float().numpy()
        wide = theirs.float()(torch.tensor(ids)).logits.numpy()
    ours = model(input_ids=ids).logits.data
    assert relative(ours, wide) < 1e-5
    assert relative(ours, wide) < relative(narrow, wide) < 0.02


@pytest.mark.parity
@pytest.mark.parametrize("scale", [1, 60])
def test_in_float16_it_is_as_near_to_float32_as_transformers_is(model, tmp_path, scale):
    """With a scale of 60 the residual stream has squares beyond what float16 holds."""
    import torch
    import transformers

    model.get_input_embeddings().weight.data *= np.float32(scale)
    model.half().save_pretrained(tmp_path)
    ids = some_ids(model.config)
    narrow, wide = (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
        for dtype in ("float16", "float32")
    )
    tensors = torch.tensor(ids)
    expected = wide(tensors, labels=tensors)
    ours, theirs = model(input_ids=ids, labels=ids), narrow(tensors, labels=tensors)
    assert ours.logits.dtype == np.float16
    error = relative(theirs.logits.detach().float(), expected.logits.detach())
    assert relative(ours.logits.data, expected.logits.detach()) < 2 * error < 0.02
    for m in (ours, theirs, expected):
        m.loss.backward()
    there, exact = (dict(m.named_parameters()) for m in (narrow, wide))
    for name, p in model.named_parameters():
        error = relative(there[name].grad.float(), exact[name].grad)
        assert relative(p.grad, exact[name].grad) < 3 * error + 1e-3, name


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{"block_size": 16}, {"group_size": 8}])
def test_what_is_in_4_bits_is_saved_as_numbers_that_transformers_reads(model, tmp_path, dtype, options):
    import torch
    import transformers

    quantize_model(model.to(dtype), **options).save_pretrained(tmp_path)
    theirs, ids = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval(), some_ids(model.config)
    assert str(theirs.dtype) == f"torch.{dtype}"
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.is_loaded_in_4bit
    assert not again.is_loaded_in_4bit
    with torch.no_grad():
        expected = theirs.float()(torch.tensor(ids)).logits.numpy()
    assert relative(again(input_ids=ids).logits.data, expected) < 1e-5
    assert relative(model(input_ids=ids).logits.data, expected) < (1e-5 if dtype == "float32" else 2e-2)


def test_it_writes(model):
    wide = model.to("bfloat16").generate([[1, 2, 3]], max_new_tokens=4, do_sample=False)
    np.testing.assert_array_equal(wide, model.float().generate([[1, 2, 3]], max_new_tokens=4, do_sample=False))


@gpu
@pytest.mark.parametrize("four_bit", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_on_a_gpu_it_learns_what_it_learns_on_a_cpu(model, four_bit, checkpointing):
    kind = "gpt2" if hasattr(model, "transformer") else "llama"
    results = []
    for device in ("cpu", "cuda"):
        made = MODELS[kind]().to("bfloat16")
        made = quantize_model(made, block_size=16) if four_bit else made
        if checkpointing:
            made.gradient_checkpointing_enable()
        results.append(losses_and_gradients(adapted(made).to(device)))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=0.02)
    for name, d in results[1][1].items():
        assert d.dtype == np.float32
        assert relative(d, results[0][1][name]) < 0.1, name


@gpu
@pytest.mark.parametrize("four_bit", [False, True])
def test_a_recorded_step_in_16_bits_is_the_ordinary_one(model, four_bit):
    from lora_np.training.parallel import RecordedStep

    kind = "gpt2" if hasattr(model, "transformer") else "llama"
    found = []
    for recorded in (False, True):
        made = MODELS[kind]().to("bfloat16")
        made = adapted(quantize_model(made, block_size=16) if four_bit else made).to("cuda")
        ids = some_ids(made.config)
        if recorded:
            step = RecordedStep(made, AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-2))
            found.append([float(step({"input_ids": ids, "labels": ids})) for _ in range(5)])
        else:
            found.append(losses_and_gradients(made, steps=5)[0])
    np.testing.assert_allclose(found[1], found[0], rtol=2e-3)


@gpu
def test_it_writes_on_a_gpu(model):
    written = model.to("cuda", "bfloat16").generate([[1, 2, 3]], max_new_tokens=6, do_sample=False)
    assert np.asarray(written).shape == (1, 9)


@gpu
def test_weights_are_put_into_4_bits_on_the_gpu_one_by_one():
    on_cpu, there = (quantize_model(tiny_llama(), block_size=16, device=d) for d in (None, "cuda"))
    assert there.model.layers[0].mlp.up_proj.weight_codes.device == "cuda:0"
    there = there.to("cuda")
    for (name, ours), theirs in zip(on_cpu.state_dict().items(), there.state_dict().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs.get(), err_msg=name)
