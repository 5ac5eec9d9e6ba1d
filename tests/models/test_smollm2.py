"""SmolLM2, a real language model: its text, and its logits, training and adapters against Transformers and PEFT."""

import warnings

import numpy as np
import pytest
from lora_helpers import logits_of, relative

from lora_np import AutoModelForCausalLM, AutoTokenizer, LoraConfig, PeftModel, get_peft_model
from lora_np.training import AdamW

pytestmark = pytest.mark.smollm2
PROMPTS = ["The capital of France is", "Once upon a time, there was a little robot who"]
CONFIG = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf):
    """(model, tokenizer); tests put adapters on models of their own."""
    return AutoModelForCausalLM.from_pretrained("smollm2"), AutoTokenizer.from_pretrained("smollm2")


@pytest.fixture(scope="module")
def twin(smollm2_gguf):
    """What Transformers makes of the same file."""
    import torch
    import transformers

    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    ).eval()


def ids_of(tokenizer, length, batch=1):
    """Ordinary English, (batch, length) ids of it."""
    text = "LoRA adds a small product of two matrices to a frozen weight. Everybody can train it at home. " * 4
    return tokenizer(text, return_tensors="np")["input_ids"][:, : batch * length].reshape(batch, length)


def peft_model(twin, **options):
    """PEFT's model on the twin, with all of A and B random. `unload()` gives the twin back."""
    import peft
    import torch

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(twin, peft.LoraConfig(**{**CONFIG, **options}, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.02)
    return model


def test_it_knows_the_capital_of_france(smollm2):
    model, tokenizer = smollm2
    assert model.config.name_or_path == "smollm2"
    assert model.num_parameters() == 134_515_008
    text = tokenizer.decode(model.generate(tokenizer(PROMPTS[0])["input_ids"], max_new_tokens=8)[0])
    assert text.startswith("The capital of France is Paris.")


def test_a_padded_batch_goes_on_as_its_rows_alone(smollm2):
    model, tokenizer = smollm2
    ids, mask = left_padded(tokenizer)
    found = model.generate(ids, attention_mask=mask, max_new_tokens=6)
    for row, prompt in zip(found, PROMPTS, strict=True):
        alone = model.generate(tokenizer(prompt)["input_ids"], max_new_tokens=6)
        np.testing.assert_array_equal(row[-6:], alone[0, -6:])


def left_padded(tokenizer):
    rows = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    T = max(map(len, rows))
    ids, mask = np.full((len(rows), T), 2), np.zeros((len(rows), T), int)
    for i, row in enumerate(rows):
        ids[i, T - len(row) :], mask[i, T - len(row) :] = row, 1
    return ids, mask


@pytest.mark.parity
def test_logits_are_transformers(smollm2, twin):
    model, tokenizer = smollm2
    ids = ids_of(tokenizer, 24, batch=2)
    assert relative(logits_of(model, ids), logits_of(twin, ids)) < 1e-4


def their_text(twin, ids, mask=None):
    import torch

    mask = np.ones(ids.shape, int) if mask is None else mask
    options = {"max_new_tokens": 64, "do_sample": False, "pad_token_id": 2}
    return twin.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **options).numpy()


@pytest.mark.parity
@pytest.mark.parametrize("prompt", PROMPTS)
def test_64_greedy_tokens_are_transformers(smollm2, twin, prompt):
    model, tokenizer = smollm2
    ids = tokenizer(prompt, return_tensors="np")["input_ids"]
    found = model.generate(ids, max_new_tokens=64)
    assert found.shape[1] > ids.shape[1] + 20
    np.testing.assert_array_equal(found, their_text(twin, ids))


@pytest.mark.parity
def test_64_greedy_tokens_of_a_padded_batch_are_transformers(smollm2, twin):
    model, tokenizer = smollm2
    ids, mask = left_padded(tokenizer)
    found = model.generate(ids, attention_mask=mask, max_new_tokens=64)
    np.testing.assert_array_equal(found, their_text(twin, ids, mask))


@pytest.mark.parity
def test_one_step_of_lora_has_pefts_loss_and_gradients(smollm2, twin):
    import torch

    tokenizer, ours = smollm2[1], get_peft_model(AutoModelForCausalLM.from_pretrained("smollm2"), LoraConfig(**CONFIG))
    theirs, ids = peft_model(twin), ids_of(smollm2[1], 12)
    assert tokenizer.decode(ids[0]).startswith("LoRA adds")
    try:
        values = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
        for name, p in ours.named_parameters():
            if p.requires_grad:
                p.data = values[name].detach().numpy().copy()
        expected = theirs(input_ids=torch.tensor(ids), labels=torch.tensor(ids)).loss
        expected.backward()
        gradients = {name: p.grad.numpy().copy() for name, p in values.items()}
    finally:
        theirs.unload()
    loss = ours(ids, labels=ids).loss
    loss.backward()
    assert relative(loss.item(), expected.item()) < 1e-5
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert set(found) == set(gradients)
    assert len(found) == 30 * 2 * 2
    for name, gradient in gradients.items():
        assert relative(found[name], gradient) < 2e-4, name


@pytest.mark.parity
def test_an_adapter_trained_here_works_in_peft(smollm2, twin, tmp_path):
    import peft

    tokenizer, model = smollm2[1], AutoModelForCausalLM.from_pretrained("smollm2")
    ours, ids = get_peft_model(model, LoraConfig(**CONFIG)), ids_of(smollm2[1], 12)
    optimizer, losses = AdamW([p for p in ours.parameters() if p.requires_grad], lr=5e-3), []
    for _ in range(4):
        loss = ours(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    ours.save_pretrained(tmp_path)
    other = ids_of(tokenizer, 20)[:, 8:]
    theirs = peft.PeftModel.from_pretrained(twin, tmp_path).eval()
    try:
        assert relative(logits_of(ours, other), logits_of(theirs, other)) < 1e-4
    finally:
        theirs.unload()
    assert relative(logits_of(twin, other), logits_of(ours, other)) > 1e-2


@pytest.mark.parity
def test_an_adapter_of_peft_works_here(smollm2, twin, tmp_path):
    ids = ids_of(smollm2[1], 12)
    theirs = peft_model(twin, target_modules="all-linear").eval()
    try:
        theirs.save_pretrained(tmp_path)
        expected = logits_of(theirs, ids)
    finally:
        theirs.unload()
    ours = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("smollm2"), tmp_path)
    assert relative(logits_of(ours, ids), expected) < 1e-4
    with ours.disable_adapter():
        assert relative(logits_of(ours, ids), expected) > 1e-2
    ours.merge_adapter()
    assert relative(logits_of(ours, ids), expected) < 1e-4
