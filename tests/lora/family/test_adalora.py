"""AdaLoRA: triplets of a singular value decomposition, and the choice of those that stay."""

import json
import warnings

import numpy as np
import pytest
from family_twins import (
    BASES,
    adapted,
    assert_comes_back,
    assert_equal_in_peft,
    assert_fields_are_pefts,
    assert_gradients_by_differences,
    assert_read_from_peft,
    layout,
    moved,
    twin_of_file,
)
from lora_helpers import assert_merges, gradients, logits_of, refusal, relative, some_ids, tiny_llama, tiny_model

from lora_np import LoraConfig, PeftModel, get_peft_model, nn, train
from lora_np.autograd.gradcheck import gradcheck
from lora_np.lora import AdaLoraConfig
from lora_np.lora.family.adalora import OF_LORA_ALONE, from_orthogonal
from lora_np.lora.family.triplets import budget
from lora_np.storage import read_json
from lora_np.training import TrainingArguments
from lora_np.training.optim import SGD

each_base = pytest.mark.parametrize("base", ["gpt2", "llama"])
ALONE = {"total_step": 10, "orth_reg_weight": 0}  # without the term in the loss
SCHEDULE = {
    "task_type": "CAUSAL_LM",
    "init_r": 4,
    "target_r": 2,
    "tinit": 1,
    "tfinal": 3,
    "deltaT": 2,
    "total_step": 10,
}


def adapters_of(model):
    return [layer.adapters["default"] for _, layer in model.base_model.layers()]


def steps_of(model, count, start=0, optimizer=None):
    """So many steps of training, as PEFT's documentation has them; the losses."""
    ids, losses = some_ids(model.config), []
    optimizer = optimizer or SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for step in range(start, start + count):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    model = adapted(AdaLoraConfig, base, total_step=10)
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), expected := logits_of(model))
    random = adapted(AdaLoraConfig, base, total_step=10, init_lora_weights=False)
    assert relative(logits_of(random), expected) > 1e-2


def test_what_is_trained_and_what_the_update_is():
    model = moved(AdaLoraConfig, init_r=3, lora_alpha=6, total_step=10)
    assert model.get_nb_trainable_parameters()[0] == 2 * 3 * (16 + 16 + 1 + 24 + 16 + 1)
    adapter = adapters_of(model)[0]
    Q, E, P = (adapter.tensors()[f"lora_{letter}"].data for letter in "AEB")
    np.testing.assert_allclose(adapter.delta_weight(), 2 * P @ np.diag(E[:, 0]) @ Q, rtol=1e-4)
    model.set_scale("default", 0.5)
    np.testing.assert_allclose(adapter.delta_weight(), P @ np.diag(E[:, 0]) @ Q, rtol=1e-4)


@each_base
def test_merging(base):
    assert_merges(moved(AdaLoraConfig, base, total_step=10, lora_alpha=40), 1e-5)


@each_base
def test_an_adapter_comes_back_bit_for_bit(base, tmp_path):
    assert_comes_back(moved(AdaLoraConfig, base, total_step=10, init_r=3), base, tmp_path)


@each_base
def test_gradients_by_finite_differences(base):
    assert_gradients_by_differences(moved(AdaLoraConfig, base, np.float64, total_step=10, init_r=2))


def test_the_distance_from_orthogonal_rows():
    for columns, shape in ((False, (3, 5)), (True, (5, 3))):
        p = nn.Parameter(np.random.default_rng(0).standard_normal(shape))
        M = p.data.T if columns else p.data
        assert from_orthogonal(p, columns).item() == pytest.approx(np.linalg.norm(M @ M.T - np.eye(3)))
        gradcheck(lambda p, columns=columns: from_orthogonal(p, columns), [p])
    for orthogonal in (nn.Parameter(np.eye(3)), nn.Parameter(np.zeros((0, 4)))):
        distance = from_orthogonal(orthogonal)
        distance.backward()
        assert distance.item() == 0
        assert not orthogonal.grad.any()


def test_the_loss_has_the_term_while_the_adapter_is_trained_and_on():
    model, ids = moved(AdaLoraConfig, total_step=10, task_type="CAUSAL_LM"), some_ids(tiny_llama().config)
    plain = moved(AdaLoraConfig, **ALONE)
    np.testing.assert_array_equal(logits_of(model), logits_of(plain))

    def loss(model):
        return model(ids, labels=ids).loss.item()

    distances = [from_orthogonal(p, c).item() for a in adapters_of(model) for p, c in ((a.lora_A, 0), (a.lora_B, 1))]
    assert loss(model) - loss(plain) == pytest.approx(0.5 * np.mean(distances), rel=1e-5)
    with model.disable_adapter():
        assert loss(model) == loss(tiny_llama())
    assert loss(model.base_model) == loss(model)
    model.set_adapter("default", inference_mode=True)
    assert loss(model) == loss(plain)


def test_a_model_without_a_task_has_no_term_as_in_peft_and_training_says_so():
    model, ids = moved(AdaLoraConfig, total_step=10), some_ids(tiny_llama().config)
    expected = moved(AdaLoraConfig, **ALONE)(ids, labels=ids).loss.item()
    assert model(ids, labels=ids).loss.item() == expected
    assert model.base_model(ids, labels=ids).loss.item() > expected
    with pytest.warns(UserWarning, match="without a task_type lacks the term"):
        steps_of(model, 1)


def test_the_budget_falls_to_the_target_and_the_choice_becomes_final():
    model = adapted(AdaLoraConfig, **SCHEDULE)
    config, kept = model.peft_config["default"], []
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for step in range(10):
        steps_of(model, 1, step, optimizer)
        kept.append(sum(int((a.lora_E.data != 0).sum()) for a in adapters_of(model)))
    assert kept[:2] == [16, 16]  # until tinit, and where deltaT does not divide the step
    assert kept[2] == budget(config, 2, 4) < 16
    assert kept[7:] == [8, 8, 8]
    chosen = {name: sum(bits) for name, bits in config.rank_pattern.items()}
    assert list(chosen) == [f"{name}.lora_E.default" for name, _ in model.base_model.layers()]
    assert sum(chosen.values()) == 8
    assert not any(adapter.triplets.smooth for adapter in adapters_of(model))


def test_a_file_has_the_triplets_that_are_left(tmp_path):
    model = adapted(AdaLoraConfig, **SCHEDULE)
    steps_of(model, 10)
    model.save_pretrained(tmp_path / "a")
    pattern = read_json(tmp_path / "a" / "adapter_config.json")["rank_pattern"]
    ranks = {f"base_model.model.{name}": (sum(bits), 1) for name, bits in pattern.items()}
    assert sum(rank for rank, _ in ranks.values()) == 8
    assert {name: shape for name, shape in layout(tmp_path / "a").items() if name.endswith("lora_E")} == ranks
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "a", is_trainable=True)
    assert relative(logits_of(loaded), logits_of(model)) < 1e-6
    loaded.save_pretrained(tmp_path / "b")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    steps_of(loaded, 10)  # goes on from what is left
    assert sum(int((a.lora_E.data != 0).sum()) for a in adapters_of(loaded)) == 8


def test_what_does_something_is_saved_also_where_it_was_not_chosen(tmp_path):
    model = adapted(AdaLoraConfig, **SCHEDULE)
    steps_of(model, 4)
    adapter = next(a for a in adapters_of(model) if not a.triplets.left.all())
    adapter.lora_E.data[~adapter.triplets.left] = 0.3  # as the optimizer does where deltaT is not 1
    model.save_pretrained(tmp_path)
    assert relative(logits_of(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits_of(model)) < 1e-6


def test_a_layer_may_be_left_without_any_triplet(tmp_path):
    model = adapted(AdaLoraConfig, **SCHEDULE)
    steps_of(model, 10)
    adapter = adapters_of(model)[0]
    adapter.triplets.left = np.zeros(4, bool)
    adapter.drop(True)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True)
    assert adapters_of(loaded)[0].r == 0
    assert relative(logits_of(loaded), logits_of(model)) < 1e-6
    gradients(loaded)
    loaded.merge_adapter()
    assert relative(logits_of(loaded), logits_of(model)) < 1e-5


class OneBatch:
    """Data of a single batch."""

    def __init__(self, config):
        self.ids = some_ids(config)

    def batch(self, seed, step):
        return {"input_ids": self.ids, "labels": self.ids}


def arguments(**options):
    return TrainingArguments(**{"steps": 10, "learning_rate": 3e-2, "warmup_steps": 0, "eval_every": 100, **options})


def test_train_allocates_after_each_step_and_the_loss_falls():
    model = adapted(AdaLoraConfig, **SCHEDULE)
    history = train(model, OneBatch(model.config), arguments(), progress=False)
    assert history["loss"][-1] < 0.97 * history["loss"][0]
    assert sum(int((a.lora_E.data != 0).sum()) for a in adapters_of(model)) == 8


def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path):
    data = OneBatch(tiny_llama().config)

    def trained(steps, folder=None, resume=False, **changes):
        model = adapted(AdaLoraConfig, **SCHEDULE | changes)
        options = arguments(steps=steps, lr_scheduler_type="constant")
        train(model, data, options, directory=folder, resume=resume, progress=False)
        return model

    expected = trained(10)
    for first in (5, 9):
        folder = tmp_path / str(first)
        trained(first, folder)
        found = trained(10, folder, resume=True)
        np.testing.assert_array_equal(logits_of(found), logits_of(expected))
        assert found.peft_config["default"].rank_pattern == expected.peft_config["default"].rank_pattern
    assert "is of another model" in refusal(ValueError, lambda: trained(10, folder, True, init_r=5))


def test_what_belongs_to_adalora_is_not_on_other_models():
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    assert not hasattr(model, "update_and_allocate")
    model.base_model.after_step(0)  # nothing
    assert hasattr(adapted(AdaLoraConfig, total_step=3), "update_and_allocate")


def test_update_and_allocate_needs_gradients_and_the_steps_before():
    model = adapted(AdaLoraConfig, **SCHEDULE)
    assert "needs gradients" in refusal(RuntimeError, lambda: model.update_and_allocate(0))
    assert "has seen no step" in refusal(RuntimeError, lambda: model.update_and_allocate(7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_step": None}, "total_step must be the number of steps"),
        ({"total_step": 0}, "total_step must be the number of steps"),
        ({"total_step": 5, "tinit": 3, "tfinal": 2}, "tinit = 3 and tfinal = 2 leave none"),
        ({"tinit": -1}, "tinit must be an integer of at least 0, got -1"),
        ({"tfinal": 1.5}, "tfinal must be an integer of at least 0, got 1.5"),
        ({"deltaT": 0}, "deltaT must be an integer of at least 1, got 0"),
        ({"target_r": 0}, "target_r must be an integer of at least 1"),
        ({"init_r": "8"}, "init_r must be an integer of at least 1, got '8'"),
        ({"beta1": 1.0}, "beta1 must be in (0, 1), got 1.0"),
        ({"beta2": None}, "beta2 must be in (0, 1), got None"),
        ({"orth_reg_weight": -0.1}, "orth_reg_weight must be at least 0, got -0.1"),
        ({"orth_reg_weight": "x"}, "orth_reg_weight must be a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be finite"),
        ({"lora_dropout": 1}, "lora_dropout must be in [0, 1)"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights must be True or False, got 'pissa'"),
        ({"rank_pattern": {"q": 3}}, "rank_pattern must be a dict from names"),
        ({"rank_pattern": [True]}, "rank_pattern must be a dict from names"),
        ({"rank_pattern": {"q.lora_E": [True]}}, "init_r = 12 times True or False"),
        ({"use_dora": True}, "DoRA does not go with AdaLoRA"),
        ({"use_rslora": 1}, "use_rslora must be True or False, got 1"),
        ({"alpha_pattern": {"q": 3}}, "its scale is lora_alpha / init_r in all layers"),
        ({"lora_bias": True}, "AdaLoRA's branch has no bias"),
        ({"trainable_token_indices": [1]}, "no rows of an embedding are trained"),
        ({"ensure_weight_tying": True}, "AdaLoRA adapts no embeddings"),
        ({"bias": "adalora_only"}, "'lora_only'"),
    ],
)
def test_what_is_refused_by_the_constructor_and_in_files(options, message):
    options = {"total_step": 10, **options}
    assert message in refusal(ValueError, lambda: AdaLoraConfig(**options))
    in_file = refusal(ValueError, lambda: AdaLoraConfig.from_dict({"peft_type": "ADALORA", **options}, "a.json"))
    assert message in in_file
    assert in_file.startswith("a.json")


@pytest.mark.parametrize("field", OF_LORA_ALONE)
def test_what_is_for_lora_alone_is_refused_whatever_lora_can_do(field):
    given = {"use_qalora": True, "alora_invocation_tokens": [1], "layer_replication": [(0, 1)]}
    value = given.get(field, {"some": "thing"})
    assert f"AdaLoraConfig: {field}=" in refusal(ValueError, lambda: AdaLoraConfig(total_step=3, **{field: value}))
    assert field in AdaLoraConfig.unsupported


@pytest.mark.parametrize("options", [{"r": 4}, {"use_rslora": True}], ids=str)
def test_what_is_not_used_says_so(options):
    (name,) = options
    with pytest.warns(UserWarning, match=f"AdaLoRA does not use {name}:"):
        AdaLoraConfig(total_step=3, **options)


def test_embeddings_are_refused_and_biases_go_with_it():
    config = AdaLoraConfig(target_modules=["wte"], total_step=10)
    assert "wte is an Embedding" in refusal(ValueError, lambda: get_peft_model(tiny_model(), config))
    model = moved(AdaLoraConfig, "gpt2", total_step=10, bias="lora_only")
    assert sum("bias" in name for name in gradients(model)) == 4


@pytest.mark.parity
class TestAgainstPeft:
    def test_fields(self):
        assert_fields_are_pefts(AdaLoraConfig, total_step=10)

    @pytest.mark.parametrize(("base", "dtype"), [("gpt2", np.float64), ("llama", np.float32)])
    def test_logits_and_gradients_of_our_files_there(self, base, dtype, tmp_path):
        model = moved(AdaLoraConfig, base, dtype, init_r=5, total_step=10)
        assert_equal_in_peft(model, base, tmp_path, dtype)  # without a task, both without the term in the loss

    @pytest.mark.filterwarnings("ignore:AdaLoRA does not use use_rslora")
    def test_rslora_changes_nothing_in_either(self, tmp_path):
        import peft

        settings = {"init_r": 3, "lora_alpha": 6, "use_rslora": True, "total_step": 10}
        model = moved(AdaLoraConfig, "llama", **settings)
        assert_equal_in_peft(model, "llama", tmp_path / "ours")
        plain = moved(AdaLoraConfig, "llama", **{**settings, "use_rslora": False})
        np.testing.assert_array_equal(logits_of(model), logits_of(plain))
        config = peft.AdaLoraConfig(target_modules=BASES["llama"][1], init_lora_weights=False, **settings)
        assert_read_from_peft(config, "llama", tmp_path / "theirs")

    @each_base
    def test_their_files_here(self, base, tmp_path):
        import peft

        config = peft.AdaLoraConfig(
            target_modules=BASES[base][1],
            fan_in_fan_out=base == "gpt2",
            init_r=3,
            init_lora_weights=False,
            total_step=5,
        )
        assert_read_from_peft(config, base, tmp_path)

    @each_base
    def test_training_gives_the_same_numbers_and_the_same_choice(self, base, tmp_path):
        import torch

        ours = moved(AdaLoraConfig, base, scale=0.2, **SCHEDULE)
        ours.save_pretrained(tmp_path / "start")
        theirs = twin_of_file(base, tmp_path / "start")
        ids = torch.tensor(some_ids(ours.config))
        optimizer = torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=0.5)
        expected = []
        for step in range(10):
            loss = theirs(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            theirs.base_model.update_and_allocate(step)
            optimizer.zero_grad()
            expected.append(loss.item())
        np.testing.assert_allclose(steps_of(ours, 10), expected, rtol=1e-4)
        patterns = [model.peft_config["default"].rank_pattern for model in (ours, theirs)]
        assert patterns[0] == patterns[1]
        assert relative(logits_of(ours), logits_of(theirs.base_model.model)) < 1e-3
        self.check_files(ours, theirs, base, tmp_path)

    def check_files(self, ours, theirs, base, folder):
        """What is left after training: each reads the other's file, and they have one layout."""
        ours.save_pretrained(folder / "ours")
        theirs.save_pretrained(folder / "theirs")
        assert layout(folder / "ours") == layout(folder / "theirs")
        fields = [json.loads((folder / w / "adapter_config.json").read_text()) for w in ("ours", "theirs")]
        assert fields[0]["rank_pattern"] == fields[1]["rank_pattern"]
        here = PeftModel.from_pretrained(BASES[base][0](), folder / "theirs")
        assert relative(logits_of(here), logits_of(theirs.base_model.model)) < 2e-5
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            there = twin_of_file(base, folder / "ours")
        assert relative(logits_of(ours), logits_of(there.base_model.model)) < 2e-5
