"""Qwen2.5-Coder 0.5B, a real language model: its text, tokens, chats, and logits against Transformers, an adapter."""

import numpy as np
import pytest
from lora_helpers import relative

from lora_np import AdamW, AutoModelForCausalLM, AutoTokenizer, LoraConfig, Qwen2ForCausalLM, get_peft_model, no_grad

NAME, PROMPT = "qwen2.5-coder-0.5b", "def fibonacci(n):"
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@pytest.fixture(scope="module")
def qwen(qwen_gguf):
    """(model, tokenizer)."""
    return AutoModelForCausalLM.from_pretrained(NAME), AutoTokenizer.from_pretrained(NAME)


def test_it_writes_python(qwen):
    model, tokenizer = qwen
    assert type(model) is Qwen2ForCausalLM
    assert model.num_parameters() == 630_167_424  # with a head of its own, which Qwen's has not
    ids = tokenizer(PROMPT, return_tensors="np")["input_ids"]
    assert ids.tolist() == [[750, 75698, 1445, 1648]]  # as Transformers has them
    text = tokenizer.decode(list(model.generate(ids, max_new_tokens=8, do_sample=False)[0]))
    assert text.startswith(f"{PROMPT}\n    if n <= 0:")


@pytest.mark.parametrize(
    "text", ["a  b\n\n\n c", "  def f(x):\n\treturn x", "<table><tr>", "日本語 é 😀 \u0301", "x" * 50]
)
def test_its_tokens_are_the_text(qwen, text):
    tokenizer = qwen[1]
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.encode("<|im_start|>") == [151644]


def test_its_chats(qwen):
    text = qwen[1].apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False)
    start, end = "<|im_start|>", "<|im_end|>\n"
    assert text == f"{start}system\n{SYSTEM}{end}{start}user\nHi{end}{start}assistant\n"


@pytest.mark.parity
def test_logits_are_transformers_from_the_same_file(qwen, qwen_gguf):
    import torch
    import transformers

    model, tokenizer = qwen
    torch.set_num_threads(1)
    folder, options = qwen_gguf.parent, {"gguf_file": qwen_gguf.name, "dtype": torch.float32}
    twin = transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    ids = tokenizer.encode(PROMPT)
    with torch.no_grad(), no_grad():
        assert relative(model(np.array([ids])).logits.data, twin(torch.tensor([ids])).logits) < 2e-5


def test_an_adapter_learns(qwen):
    model, tokenizer = qwen
    peft_model = get_peft_model(model, LoraConfig(r=4))
    assert len(list(peft_model.base_model.layers())) == 48  # q_proj and v_proj of each block
    ids = tokenizer("Low rank, high hopes.", return_tensors="np")["input_ids"]
    optimizer = AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = peft_model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    peft_model.unload()
    assert losses[-1] < losses[0]
