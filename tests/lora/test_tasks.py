"""Adapters on classifiers: the head is trained whole and saved; logits, gradients and files are PEFT's."""

import json
import warnings

import numpy as np
import pytest
from classifier_helpers import IDS, MASK, tiny_classifier, twin_of
from lora_helpers import peft_model, perturbed, refusal, relative, snapshot, tiny_model

from lora_np import LoraConfig, PeftModel, TaskType, get_peft_model, nn
from lora_np.lora import PeftModelForSequenceClassification
from lora_np.storage import read_safetensors

LABELS = np.array([0, 2, 1, 1, 2])
KINDS = ["gpt2", "llama", "qwen3"]
SCORE = "base_model.model.score"


def config(kind="gpt2", **options):
    targets = {"gpt2": ["c_attn"]}.get(kind, ["q_proj", "v_proj"])
    fan_in_fan_out = kind == "gpt2"
    options = {"target_modules": targets, "fan_in_fan_out": fan_in_fan_out, **options}
    return LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, task_type="SEQ_CLS", **options)


def adapted(kind="gpt2", **options):
    return perturbed(get_peft_model(tiny_classifier(kind, num_labels=3), config(kind, **options)))


def scores(model):
    return model(IDS, attention_mask=MASK).logits.numpy().copy()


def test_the_head_is_trained_whole_and_the_config_says_so():
    own = config()
    model = get_peft_model(tiny_classifier(num_labels=3), own)
    assert type(model) is PeftModelForSequenceClassification
    assert own.modules_to_save == ["classifier", "score"]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert f"{SCORE}.modules_to_save.default.weight" in trained
    assert all("lora_" in name or "score" in name for name in trained)


def test_names_that_are_given_stay_and_none_is_there_twice():
    own = config(modules_to_save=["score", "ln_f"])
    get_peft_model(tiny_classifier(), own)
    assert own.modules_to_save == ["score", "ln_f", "classifier"]


def test_all_linear_leaves_the_head_out():
    model = adapted(target_modules="all-linear")
    assert len(model.base_model.layers()) == 8
    assert list(model.base_model.saved) == ["score"]


def test_a_language_model_has_no_such_head_and_nothing_is_added():
    own = config()
    model = get_peft_model(tiny_model(), own)
    assert own.modules_to_save is None
    assert not model.base_model.saved


def test_a_misspelt_name_is_still_refused():
    assert "matches 'socre'" in refusal(ValueError, lambda: adapted(modules_to_save=["socre"]))


def test_without_adapters_the_head_is_the_old_one_and_merging_keeps_the_new():
    model = adapted()
    base = tiny_classifier(num_labels=3)
    with model.disable_adapter():
        np.testing.assert_array_equal(scores(model), scores(base))
    expected, before = scores(model), snapshot(model)
    model.merge_adapter(safe_merge=True)
    assert relative(scores(model), expected) < 1e-6
    model.unmerge_adapter()
    assert snapshot(model) == before
    head = model.base_model.model.score.modules_to_save["default"].weight.data.copy()
    plain = model.merge_and_unload()
    assert relative(scores(plain), expected) < 1e-6
    np.testing.assert_array_equal(plain.score.weight.data, head)


def test_each_adapter_has_a_head_of_its_own():
    model = adapted()
    first = scores(model)
    model.add_adapter("second", config())
    model.set_adapter("second")
    second = scores(perturbed(model, seed=5))
    assert relative(second, first) > 1e-2
    model.set_adapter("default")
    np.testing.assert_array_equal(scores(model), first)
    message = refusal(ValueError, lambda: model.set_adapter(["default", "second"]))
    assert "each train score whole" in message


def test_a_file_brings_the_head_back(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    assert f"{SCORE}.weight" in read_safetensors(tmp_path / "adapter_model.safetensors")[0]
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == ["classifier", "score"]
    with warnings.catch_warnings(action="error"):
        loaded = PeftModel.from_pretrained(tiny_classifier(num_labels=3), tmp_path)
        loaded.load_adapter(tmp_path, "other")
    assert type(loaded) is PeftModelForSequenceClassification
    assert loaded.peft_config["default"].task_type == TaskType.SEQ_CLS
    np.testing.assert_array_equal(scores(loaded), scores(model))


def test_a_file_for_another_number_of_classes_is_refused(tmp_path):
    adapted().save_pretrained(tmp_path)
    base = tiny_classifier(num_labels=4)
    message = refusal(ValueError, lambda: PeftModel.from_pretrained(base, tmp_path))
    assert f"{SCORE}.weight has shape (3, 16) instead of (4, 16)" in message


def test_the_class_is_chosen_by_the_task_alone():
    assert type(peft_model()) is PeftModel


def test_a_base_in_four_bits_has_its_head_in_full():
    model = nn.quantize_model(tiny_classifier("llama", num_labels=3, hidden_size=64, intermediate_size=64))
    model = get_peft_model(model, config("llama"))
    model(IDS, labels=LABELS).loss.backward()
    assert model.base_model.model.score.modules_to_save["default"].weight.grad.shape == (3, 64)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_names_logits_loss_and_gradients_are_pefts(kind):
    import peft
    import torch

    own = config(kind)
    fields = {name: value for name, value in own.to_dict().items() if name != "peft_type"}
    ours = adapted(kind)
    twin = peft.get_peft_model(twin_of(tiny_classifier(kind, num_labels=3)), peft.LoraConfig(**fields)).eval()
    values = dict(ours.named_parameters())
    assert {name: p.shape for name, p in values.items()} == {n: tuple(p.shape) for n, p in twin.named_parameters()}
    with torch.no_grad():
        for name, p in twin.named_parameters():
            p.copy_(torch.tensor(values[name].data))
    expected = twin(input_ids=torch.tensor(IDS), attention_mask=torch.tensor(MASK), labels=torch.tensor(LABELS))
    expected.loss.backward()
    out = ours(IDS, attention_mask=MASK, labels=LABELS)
    out.loss.backward()
    assert relative(out.logits.data, expected.logits.detach()) < 2e-5
    assert relative(out.loss.item(), expected.loss.item()) < 2e-5
    theirs = {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert found.keys() == theirs.keys()
    for name, gradient in found.items():
        assert relative(gradient, theirs[name]) < 2e-5, name


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_files_are_exchanged_with_peft(kind, tmp_path):
    import peft
    import torch

    ours = adapted(kind)
    ours.save_pretrained(tmp_path / "ours")
    twin = peft.PeftModel.from_pretrained(twin_of(tiny_classifier(kind, num_labels=3)), tmp_path / "ours").eval()
    assert type(twin).__name__ == type(ours).__name__
    ids, mask = torch.tensor(IDS), torch.tensor(MASK)
    with torch.no_grad():
        assert relative(scores(ours), twin(ids, attention_mask=mask).logits) < 2e-5
        for name, p in twin.named_parameters():
            p += 0.1 * torch.randn_like(p) if "lora_" in name or "modules_to_save" in name else 0
        expected = twin(ids, attention_mask=mask).logits
    twin.save_pretrained(tmp_path / "theirs")
    back = PeftModel.from_pretrained(tiny_classifier(kind, num_labels=3), tmp_path / "theirs")
    assert relative(scores(back), expected) < 2e-5
    files = [read_safetensors(tmp_path / who / "adapter_model.safetensors")[0] for who in ("ours", "theirs")]
    assert {k: a.shape for k, a in files[0].items()} == {k: a.shape for k, a in files[1].items()}
