"""Gemma 3 270M, a real language model: its text and tokens, its logits against Transformers, an adapter."""

import numpy as np
import pytest
from lora_helpers import relative

from lora_np import AdamW, AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, LoraConfig, get_peft_model, no_grad

NAME, PROMPT = "gemma3-270m", "The capital of France is"


@pytest.fixture(scope="module")
def gemma3(gemma3_gguf):
    """(model, tokenizer)."""
    return AutoModelForCausalLM.from_pretrained(NAME), AutoTokenizer.from_pretrained(NAME)


def test_it_writes_english(gemma3):
    model, tokenizer = gemma3
    assert type(model) is Gemma3ForCausalLM
    assert model.num_parameters() == 268_098_176
    ids = tokenizer(PROMPT, return_tensors="np")["input_ids"]
    assert ids.tolist() == [[2, 818, 5279, 529, 7001, 563]]  # as Transformers has them
    text = tokenizer.decode(list(model.generate(ids, max_new_tokens=10, do_sample=False)[0]), skip_special_tokens=True)
    assert text.startswith(f"{PROMPT} the capital of the country of France.")


@pytest.mark.parametrize(
    "text", ["a  b\n\n\n c", "  def f(x):\n\treturn x", "<table><tr>", "日本語 é 😀 \u0301", "x" * 50]
)
def test_its_tokens_are_the_text(gemma3, text):
    tokenizer = gemma3[1]
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<bos>", "<eos>", "<pad>")
    assert tokenizer.encode("<start_of_turn>") == [2, 105]


@pytest.mark.parity
def test_logits_are_transformers_from_the_same_file(gemma3, gemma3_gguf):
    """Also beyond the 512 tokens that most layers see."""
    import torch
    import transformers

    model, tokenizer = gemma3
    torch.set_num_threads(1)
    folder, options = gemma3_gguf.parent, {"gguf_file": gemma3_gguf.name, "dtype": torch.float32}
    twin = transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    text = " ".join(f"{n} times {m} is {n * m}." for n in range(2, 10) for m in range(2, 11))
    for ids in (tokenizer.encode(PROMPT), tokenizer.encode(text)[:560]):
        assert len(ids) in (6, 560)
        with torch.no_grad(), no_grad():  # a quarter of a million numbers for each position
            expected = twin(torch.tensor([ids]), logits_to_keep=4).logits
            assert relative(model(np.array([ids]), logits_to_keep=4).logits.data, expected) < 2e-5


def test_an_adapter_learns(gemma3):
    model, tokenizer = gemma3
    peft_model = get_peft_model(model, LoraConfig(r=4))
    assert len(list(peft_model.base_model.layers())) == 36  # q_proj and v_proj of each block
    ids = tokenizer("Low rank, high hopes.", return_tensors="np")["input_ids"]
    optimizer = AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = peft_model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    peft_model.unload()
    assert losses[-1] < losses[0]
