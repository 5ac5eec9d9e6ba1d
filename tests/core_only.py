"""The core with none of the extras, in a process of its own: `python core_only.py FOLDER`.

Whatever an extra brings cannot be imported here. Everything that the core promises is done, files go into FOLDER; then
each extra is asked for, and {package: what the error says} is printed as JSON.
"""

import importlib
import importlib.abc
import json
import pkgutil
import struct
import sys
import warnings
from pathlib import Path

EXTRAS = ("gguf", "huggingface_hub", "jinja2", "matplotlib", "ml_dtypes", "scipy", "threadpoolctl", "tokenizers")
NEED_MORE = ("lora_np.autograd.cuda", "lora_np.models.tokenizers.chat", "lora_np.models.tokenizers.sandbox")


class Refusing(importlib.abc.MetaPathFinder):
    """Stands before the finders that would find the extras."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def import_everything():
    import lora_np

    for module in pkgutil.walk_packages(lora_np.__path__, "lora_np."):
        if not module.name.startswith(NEED_MORE) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def train_save_and_load(folder):
    """A step of LoRA on a tiny model of each architecture; adapter, model and merged model through files."""
    import numpy as np

    import lora_np

    lora_np.manual_seed(0)
    gpt2 = lora_np.GPT2LMHeadModel(lora_np.GPT2Config(vocab_size=256, n_positions=32, n_embd=16, n_layer=2, n_head=2))
    llama_config = lora_np.LlamaConfig(
        vocab_size=256, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    ids = lora_np.ByteTokenizer()("A rose is a rose.", return_tensors="np")["input_ids"].repeat(16, axis=0)
    for name, model in (("gpt2", gpt2), ("llama", lora_np.LlamaForCausalLM(llama_config))):
        model.save_pretrained(folder / name)
        adapted = lora_np.get_peft_model(model, lora_np.LoraConfig(r=2, target_modules="all-linear"))
        optimizer = lora_np.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.01)
        before = adapted(input_ids=ids, labels=ids).loss
        before.backward()
        optimizer.step()
        adapted.eval().save_pretrained(folder / f"{name}-adapter")
        base = lora_np.AutoModelForCausalLM.from_pretrained(folder / name)
        again = lora_np.PeftModel.from_pretrained(base, folder / f"{name}-adapter")
        logits = adapted(ids).logits.numpy()
        assert np.array_equal(again(ids).logits.numpy(), logits)
        assert adapted(input_ids=ids, labels=ids).loss.item() < before.item()
        assert np.allclose(again.merge_and_unload()(ids).logits.numpy(), logits, atol=1e-4)


def use_the_shipped_model(folder):
    """Its tokenizer, its text, and the command line's main job, but for the picture."""
    import lora_np
    from lora_np.cli import main
    from lora_np.cli import task as tasks

    tokenizer = lora_np.AutoTokenizer.from_pretrained("tiny-python")
    model = lora_np.AutoModelForCausalLM.from_pretrained("tiny-python")
    ids = tokenizer("import ")["input_ids"]
    assert tokenizer.decode(model.generate(ids, max_new_tokens=4)[0]).startswith("import ")
    tasks.EVALUATION_WINDOWS, tasks.SAMPLE_LENGTH = 2, 4
    (folder / "my.txt").write_text("Some words of a text.\n\n" * 200)
    run = ["finetune", "--data", str(folder / "my.txt"), "--steps", "1", "--batch-size", "2", "--max-length", "16"]
    sys.stdout, stdout = sys.stderr, sys.stdout
    assert main([*run, "--out", str(folder / "out")]) == 0
    sys.stdout = stdout
    assert (folder / "out" / "adapter_model.safetensors").is_file()


def a_gguf_file(folder):
    """One tensor of 32 float32 numbers."""
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"a" + struct.pack("<IQIQ", 1, 32, 0, 0)
    (folder / "a.gguf").write_bytes(header + bytes(-len(header) % 32) + bytes(4 * 32))
    return folder / "a.gguf"


def what_needs_an_extra(folder):
    """{package: a function that needs it}."""
    import numpy as np

    import lora_np
    from lora_np.autograd import functional
    from lora_np.autograd.threads import shard_count
    from lora_np.models.tokenizers import load_tokenizer
    from lora_np.plots import new_figure
    from lora_np.storage import open_gguf

    asked = lora_np.ByteTokenizer()
    asked.chat_template = "{{ messages }}"
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    assert shard_count(64, 1024) == 1  # threadpoolctl: nothing fails, the batch stays whole
    return {
        "gguf": lambda: open_gguf(a_gguf_file(folder)),
        "huggingface_hub": lambda: lora_np.AutoModelForCausalLM.from_pretrained("owner/model"),
        "jinja2": lambda: asked.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False),
        "matplotlib": new_figure,
        "ml_dtypes": lambda: lora_np.AutoModelForCausalLM.from_pretrained("tiny-python", dtype="bf16"),
        "scipy": lambda: functional.gelu(lora_np.Tensor(np.ones(3)), approximate="none"),
        "tokenizers": lambda: load_tokenizer(folder / "tokenizer"),
    }


def message(function):
    """What the ImportError says."""
    try:
        function()
    except ImportError as error:
        return str(error)
    raise AssertionError("nothing was missing")


if __name__ == "__main__":
    sys.meta_path.insert(0, Refusing())
    warnings.simplefilter("ignore", DeprecationWarning)
    folder = Path(sys.argv[1])
    import_everything()
    train_save_and_load(folder)
    use_the_shipped_model(folder)
    print(json.dumps({package: message(f) for package, f in what_needs_an_extra(folder).items()}))
