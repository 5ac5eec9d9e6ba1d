"""An adapter's numbers by name, without a file."""

import numpy as np
import pytest
from lora_helpers import (
    gradients,
    hugging_face_twin,
    load_in_peft,
    logits_of,
    peft_model,
    peft_twin,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import (
    AdaLoraConfig,
    LoHaConfig,
    LoraConfig,
    PeftModel,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from lora_np.storage import read_safetensors


def random_model(seed=0, **options):
    model = peft_model(["c_attn"], init_lora_weights=False, **options)
    for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
        p.data = np.random.default_rng(seed + i).standard_normal(p.shape).astype(np.float32) * 0.1
    return model


KINDS = [{}, {"use_dora": True}, {"lora_bias": True}, {"bias": "all"}, {"modules_to_save": ["ln_f"]}]


@pytest.mark.parametrize("options", KINDS)
def test_it_is_what_the_file_holds(tmp_path, options):
    model = random_model(**options)
    model.save_pretrained(tmp_path)
    held, _ = read_safetensors(tmp_path / "adapter_model.safetensors")
    for state in (get_peft_model_state_dict(model), load_peft_weights(tmp_path)):
        assert state.keys() == held.keys()
        for name, array in held.items():
            np.testing.assert_array_equal(state[name].data, array)


def with_dropped_triplets():
    """A model with AdaLoRA, after a choice."""
    config = AdaLoraConfig(
        total_step=3,
        tinit=0,
        tfinal=1,
        deltaT=1,
        init_r=4,
        target_r=2,
        target_modules=["c_attn"],
        task_type="CAUSAL_LM",
    )
    model = perturbed(get_peft_model(tiny_model(), config))
    for step in range(3):
        gradients(model)
        model.update_and_allocate(step)
    return model


def adapted(config, model=None):
    return perturbed(get_peft_model(model or tiny_model(), config))


OTHER_FORMS = {  # files of these hold other arrays than those that are trained
    "a tied head": lambda: adapted(
        LoraConfig(target_modules=["embed_tokens"], ensure_weight_tying=True), tiny_llama(tie_word_embeddings=True)
    ),
    "parts": lambda: adapted(LoraConfig(r=2, target_modules=["c_attn.q", "c_attn.v"], fan_in_fan_out=True)),
    "dropped triplets": with_dropped_triplets,
    "the largest logits": lambda: adapted(
        VBLoRAConfig(target_modules=["c_attn"], num_vectors=8, vector_length=4, save_only_topk_weights=True)
    ),
}


@pytest.mark.parametrize("case", OTHER_FORMS)
def test_it_has_the_form_that_the_file_has_and_is_taken_back(tmp_path, case):
    model = OTHER_FORMS[case]()
    model.save_pretrained(tmp_path)
    held, _ = read_safetensors(tmp_path / "adapter_model.safetensors")
    state = get_peft_model_state_dict(model)
    assert {name: tensor.shape for name, tensor in state.items()} == {name: a.shape for name, a in held.items()}
    assert all(np.array_equal(state[name].data, array) for name, array in held.items())
    expected = logits_of(model)
    for p in model.parameters():
        if p.requires_grad and case != "dropped triplets":  # which λ are zero says which triplets a file has
            p.data = p.data + 1
    assert set_peft_model_state_dict(model, held) == ([], [])
    assert relative(logits_of(model), expected) < 1e-6


def test_a_whole_projection_does_not_go_into_parts_of_it():
    model, whole = OTHER_FORMS["parts"](), adapted(LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    before, state = snapshot(model), get_peft_model_state_dict(whole)
    message = refusal(ValueError, lambda: set_peft_model_state_dict(model, state))
    assert "is for more than the parts q, v" in message
    assert snapshot(model) == before


@pytest.mark.parity
def test_of_a_tied_head_it_has_pefts_names():
    import peft

    model = OTHER_FORMS["a tied head"]()
    twin = peft_twin(tiny_llama(tie_word_embeddings=True), model.peft_config["default"])
    theirs = peft.get_peft_model_state_dict(twin, save_embedding_layers=False)
    assert get_peft_model_state_dict(model).keys() == theirs.keys()


@pytest.mark.parametrize("options", KINDS)
def test_another_model_computes_the_same_with_it(options):
    model, other = random_model(**options), random_model(seed=50, **options)
    result = set_peft_model_state_dict(other, get_peft_model_state_dict(model))
    assert result == ([], [])
    np.testing.assert_array_equal(logits_of(other), logits_of(model))


def test_vera_has_what_its_layers_share():
    model = get_peft_model(tiny_model(), VeraConfig(r=3, target_modules=["c_attn"]))
    assert {"base_model.vera_A", "base_model.vera_B"} <= get_peft_model_state_dict(model).keys()


def test_the_numbers_may_come_from_a_state_of_the_model():
    model = random_model()
    state = {name: array + 1 for name, array in model.state_dict().items()}
    plain, taken = get_peft_model_state_dict(model), get_peft_model_state_dict(model, state)
    for name, tensor in plain.items():
        np.testing.assert_array_equal(taken[name].data, tensor.data + 1)


def test_what_is_missing_and_what_is_too_much():
    model = random_model()
    state = get_peft_model_state_dict(model)
    first = next(iter(state))
    given = {name: value for name, value in state.items() if name != first} | {"nowhere.lora_A.weight": state[first]}
    assert set_peft_model_state_dict(model, given) == ([first], ["nowhere.lora_A.weight"])


def test_other_shapes_are_refused_or_left():
    model = random_model()
    before, state = snapshot(model), get_peft_model_state_dict(random_model(r=7))
    message = refusal(ValueError, lambda: set_peft_model_state_dict(model, state))
    assert "has shape (7, 16) instead of (4, 16)" in message
    assert snapshot(model) == before
    with pytest.warns(UserWarning, match=r"ignore_mismatched_sizes: .* has shape .* stays as it is \(4 do not fit\)"):
        result = set_peft_model_state_dict(model, state, ignore_mismatched_sizes=True)
    assert result == (list(state), [])
    assert snapshot(model) == before


@pytest.mark.parity
def test_peft_counts_other_shapes_among_the_missing(tmp_path):
    import peft
    import torch

    model = random_model()
    model.save_pretrained(tmp_path)
    twin, state = load_in_peft(tiny_model(), tmp_path), get_peft_model_state_dict(model)
    first = next(iter(state))
    arrays = {name: value.data for name, value in state.items()} | {first: state[first].data[:2]}
    with pytest.warns(UserWarning, match="ignore_mismatched_sizes"):
        found = set_peft_model_state_dict(model, arrays, ignore_mismatched_sizes=True)
    with pytest.warns(UserWarning, match="ignore_mismatched_sizes"):
        theirs = peft.set_peft_model_state_dict(
            twin, {name: torch.tensor(array) for name, array in arrays.items()}, ignore_mismatched_sizes=True
        )
    assert [name for name in theirs.missing_keys if "lora_" in name] == [first.replace(".weight", ".default.weight")]
    assert found.missing_keys == [first]


def test_not_while_it_is_merged():
    model = random_model()
    state = get_peft_model_state_dict(model)
    model.merge_adapter()
    assert "unmerge_adapter() first" in refusal(RuntimeError, lambda: set_peft_model_state_dict(model, state))


def test_a_model_without_adapters_is_refused():
    assert "has no adapters" in refusal(ValueError, lambda: get_peft_model_state_dict(tiny_model()))


@pytest.mark.parity
@pytest.mark.parametrize("targets", [["c_attn"], ["c_fc"], ["c_attn", "c_fc"]])
def test_a_second_adapter_is_injected_as_in_peft(targets):
    """It alone takes part, also in layers that only the first has."""
    import peft
    import torch

    model = tiny_model()
    twin = hugging_face_twin(model)
    for name, layers in (("default", ["c_attn", "mlp.c_proj"]), ("other", targets)):
        options = {"r": 3, "target_modules": layers, "fan_in_fan_out": True, "init_lora_weights": False}
        inject_adapter_in_model(LoraConfig(**options), model, name)
        peft.inject_adapter_in_model(peft.LoraConfig(**options), twin, name)
    values = dict(model.named_parameters())
    assert values.keys() == {name for name, _ in twin.named_parameters()}
    with torch.no_grad():
        for name, p in twin.named_parameters():
            p.copy_(torch.tensor(values[name].data))
    ids = some_ids(model.config)
    expected = twin(input_ids=torch.tensor(ids), labels=torch.tensor(ids))
    expected.loss.backward()
    assert relative(logits_of(model), expected.logits.detach()) < 2e-5
    found, theirs = gradients(model), {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert found.keys() == theirs.keys()
    assert all(".other." in name for name in found)
    for name, gradient in found.items():
        assert relative(gradient, theirs[name]) < 2e-5
    assert model.peft_config.keys() == twin.peft_config.keys()
    assert get_peft_model_state_dict(model, adapter_name="other").keys() == {
        name.replace(".other", "") for name in values if ".other." in name
    }


def test_what_cannot_be_injected_beside_another_is_refused_and_nothing_changes():
    config = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
    model = inject_adapter_in_model(config, tiny_model())
    before = snapshot(model)
    for other, name, message in (
        (config, "default", "there is an adapter 'default' already"),
        (LoHaConfig(target_modules=["c_fc"]), "other", "one model takes adapters of one kind, not LORA beside LOHA"),
        (LoraConfig(target_modules=["nope"]), "other", "no layer matches 'nope'"),
    ):
        assert message in refusal(
            ValueError, lambda other=other, name=name: inject_adapter_in_model(other, model, name)
        )
    assert list(model.peft_config) == ["default"]
    assert snapshot(model) == before
    with pytest.raises(ValueError, match="this model has adapters already"):
        inject_adapter_in_model(config, peft_model(["c_attn"]), "other")


@pytest.mark.parametrize("names", [["first"], ["first", "second"]])
def test_an_adapter_whose_numbers_do_not_fit_is_not_injected(names):
    config, model = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True), tiny_model()
    *before, last = names
    for name in before:
        inject_adapter_in_model(config, model, name)
    state, as_it_was = {"transformer.h.0.attn.c_attn.lora_A.weight": np.ones((3, 3), np.float32)}, snapshot(model)
    message = refusal(ValueError, lambda: inject_adapter_in_model(config, model, last, state_dict=state))
    assert "has shape (3, 3) instead of (8, 16)" in message
    assert snapshot(model) == as_it_was
    assert list(getattr(model, "peft_config", {})) == before
    inject_adapter_in_model(config, model, last)


def test_a_model_with_an_injected_adapter():
    model = random_model()
    state = {n.removeprefix("base_model.model."): t for n, t in get_peft_model_state_dict(model).items()}
    config = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    injected = inject_adapter_in_model(config, tiny_model(), state_dict=state)
    assert get_peft_model_state_dict(injected).keys() == state.keys()
    assert not isinstance(injected, PeftModel)
    np.testing.assert_allclose(logits_of(injected), logits_of(model), rtol=1e-6)
