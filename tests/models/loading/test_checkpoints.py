"""Model directories: ours and Transformers', whole and damaged."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf_helpers import write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, hugging_face_twin, logits_of, relative, snapshot, some_ids, tiny_llama, tiny_model

from lora_np import nn
from lora_np.models import LlamaConfig, LlamaForCausalLM
from lora_np.models.loading.checkpoints import load_pretrained
from lora_np.storage import read_safetensors, write_safetensors

MAKERS = {"gpt2": tiny_model, "llama": tiny_llama}


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


@pytest.fixture
def saved(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    return tmp_path


def edit_config(directory, **changes):
    path = directory / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(fields))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    arrays, _ = read_safetensors(path)
    change(arrays)
    write_safetensors(path, arrays)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, make, tied):
    model = make(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = load_pretrained(tmp_path / "new" / "folder")
    assert snapshot(loaded) == snapshot(model)
    assert loaded.config == model.config
    assert loaded.config.name_or_path == str(tmp_path / "new" / "folder")
    assert not loaded.training
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    arrays, metadata = read_safetensors(tmp_path / "new" / "folder" / "model.safetensors")
    assert ("lm_head.weight" in arrays) == (not tied)
    assert metadata["format"] == "pt"


def test_the_json_is_sorted_and_indented(saved):
    text = (saved / "config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


@pytest.mark.parity
@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_directory_loads_here(tmp_path, make, tied, dtype, sharded):
    import torch

    model = make(tie_word_embeddings=tied, vocab_size=300)
    twin = hugging_face_twin(model).to(getattr(torch, dtype))
    twin.save_pretrained(tmp_path, **({"max_shard_size": "4KB"} if sharded else {}))
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2 if sharded else shards == ["model.safetensors"]
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    loaded = load_pretrained(tmp_path)
    with torch.no_grad():
        expected = twin.float()(torch.tensor(some_ids(model.config))).logits
    assert relative(logits_of(loaded), expected) < 2e-5
    assert {p.dtype for p in loaded.parameters()} == {np.dtype(np.float32)}
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied


# Shards, old files, and what else stands beside the weights


def in_shards(directory, parts=3):
    """Turn a directory's one file of weights into shards, as Transformers names them; returns their names."""
    arrays, _ = read_safetensors(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    files = [f"model-{i + 1:05}-of-{parts:05}.safetensors" for i in range(parts)]
    weight_map = {name: files[i % parts] for i, name in enumerate(arrays)}
    for file in files:
        held = {name: array for name, array in arrays.items() if weight_map[name] == file}
        write_safetensors(directory / file, held)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (directory / "model.safetensors.index.json").write_text(text)
    return files


def test_shards_are_read_together(tmp_path, make):
    model = make()
    model.save_pretrained(tmp_path)
    in_shards(tmp_path)
    assert snapshot(load_pretrained(tmp_path)) == snapshot(model)


def test_one_whole_file_comes_before_shards(saved):
    whole = (saved / "model.safetensors").read_bytes()
    first, *_ = in_shards(saved)
    (saved / first).unlink()
    (saved / "model.safetensors").write_bytes(whole)
    assert snapshot(load_pretrained(saved)) == snapshot(tiny_model())


def test_a_missing_shard_is_named(saved):
    _, second, _ = in_shards(saved)
    (saved / second).unlink()
    with pytest.raises(FileNotFoundError, match=rf"index\.json lists {second}, but there is no such file"):
        load_pretrained(saved)


def test_a_damaged_shard_is_named(saved):
    _, second, _ = in_shards(saved)
    (saved / second).write_bytes((saved / second).read_bytes()[:-1])
    with pytest.raises(ValueError, match=second):
        load_pretrained(saved)


def test_an_index_that_leaves_a_weight_out_is_refused(saved):
    in_shards(saved)
    path = saved / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["transformer.ln_f.bias"]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"missing transformer\.ln_f\.bias"):
        load_pretrained(saved)


OLD_FILES = {
    "the transformer alone": (tiny_model, "transformer.", {}),
    "masks of GPT-2": (
        tiny_model,
        "",
        {
            "transformer.h.0.attn.bias": np.ones((1, 1, 12, 12), np.uint8),
            "transformer.h.1.attn.masked_bias": np.array(-1e4, np.float32),
        },
    ),
    "masks, alone": (tiny_model, "transformer.", {"h.0.attn.bias": np.ones((1, 1, 12, 12), bool)}),
    "frequencies of Llama": (
        lambda: tiny_llama(tie_word_embeddings=True),
        "",
        {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32) for i in (0, 1)},
    ),
    "the Llama alone": (lambda: tiny_llama(tie_word_embeddings=True), "model.", {"rotary_emb.inv_freq": np.ones(2)}),
}


@pytest.mark.parametrize(("make_old", "prefix", "more"), OLD_FILES.values(), ids=OLD_FILES)
def test_old_files_load(tmp_path, make_old, prefix, more):
    """Without the prefix that the head's model adds, and with constants that are computed today."""
    model = make_old()
    model.save_pretrained(tmp_path)
    arrays = {name.removeprefix(prefix): array for name, array in model.state_dict().items()}
    write_safetensors(tmp_path / "model.safetensors", {**arrays, **more})
    assert snapshot(load_pretrained(tmp_path)) == snapshot(model)


def test_biases_that_are_no_masks_are_not_passed_over(tmp_path):
    """GPT-2's masks are called attn.bias; a Llama's o_proj.bias that its config knows nothing of is another matter."""
    tiny_llama().save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda arrays: arrays.update({"model.layers.0.self_attn.o_proj.bias": np.ones(16, "f4")}))
    with pytest.raises(ValueError, match=r"unexpected model\.layers\.0\.self_attn\.o_proj\.bias"):
        load_pretrained(tmp_path)


def test_an_untied_head_may_stand_beside_a_transformer_without_prefix(tmp_path):
    model = tiny_model(tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    arrays = {name.removeprefix("transformer."): array for name, array in model.state_dict().items()}
    write_safetensors(tmp_path / "model.safetensors", arrays)
    assert snapshot(load_pretrained(tmp_path)) == snapshot(model)


def test_where_to_stop_is_read_and_written_again(tmp_path, make):
    model = make()
    ids = some_ids(model.config, batch=1, time=3)
    whole = model.generate(ids, max_new_tokens=6, eos_token_id=[])[0].tolist()
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "generation_config.json").exists()
    assert load_pretrained(tmp_path).generation_config == model.generation_config
    fields = {"eos_token_id": [whole[5], 30], "pad_token_id": 0, "transformers_version": "4.40.0"}
    (tmp_path / "generation_config.json").write_text(json.dumps(fields))
    loaded = load_pretrained(tmp_path)
    assert loaded.generate(ids, max_new_tokens=6)[0].tolist() == whole[: whole.index(whole[5], 3) + 1]
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "generation_config.json").read_text()) == fields


def test_a_damaged_generation_config_is_named(saved):
    (saved / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"generation_config\.json"):
        load_pretrained(saved)


LOADING = """
import contextlib
import sys
from pathlib import Path
with contextlib.suppress(ImportError):
    import gguf.quants
from lora_np.models.loading.checkpoints import load_pretrained

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

load_pretrained(sys.argv[1])  # a tiny one: what is loaded with the first use does not count
before = peak()
model = load_pretrained(sys.argv[2])
size = sum(p.data.nbytes for p in model.parameters())
print(size, (peak() - before) / size)
"""


def loading_peak(tiny, path):
    """(bytes of the model at `path`, how much more memory loading it took at most, in models)."""
    done = subprocess.run([sys.executable, "-c", LOADING, tiny, path], capture_output=True, text=True, check=True)
    size, share = done.stdout.split()
    return int(size), float(share)


# The process's own peak and not getrusage's: ru_maxrss begins with that of the process that started it, here pytest.
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")


@needs_proc
@pytest.mark.parametrize("kind", ["safetensors", "shards", "gguf"])
def test_loading_takes_little_more_than_the_model(tmp_path, kind):
    sizes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 2, "vocab_size": 16_000}
    with nn.uninitialized():
        model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=12, tie_word_embeddings=True))
    tiny, path = tmp_path / "tiny", tmp_path / "model"
    if kind == "gguf":
        tiny, path = tiny.with_suffix(".gguf"), path.with_suffix(".gguf")
        write_gguf(tiny, tiny_llama(hidden_size=32, intermediate_size=64), "F16")
        write_gguf(path, zeros(model), "F16")
    else:
        tiny_llama().save_pretrained(tiny)
        zeros(model).save_pretrained(path)
        if kind == "shards":
            in_shards(path)
    size, share = loading_peak(tiny, path)
    assert size > 100e6
    assert 0.9 < share < 1.3


@pytest.mark.smollm2
@needs_proc
def test_loading_smollm2_takes_little_more_than_the_model(tmp_path, smollm2_gguf):
    write_gguf(tmp_path / "tiny.gguf", tiny_llama(hidden_size=32, intermediate_size=64), "Q4_1")
    size, share = loading_peak(tmp_path / "tiny.gguf", smollm2_gguf)
    assert size == 4 * 134_515_008
    assert 0.9 < share < 1.3


def zeros(model):
    for p in model.parameters():
        p.data = np.zeros(p.shape, np.float32)
    return model


# A head beside the embedding that it should be


def with_head(directory, make, head, sharded, bare=False):
    """A directory whose config says that the head is the embedding, and whose file has this head; returns the rest."""
    model = make(tie_word_embeddings=True)
    model.save_pretrained(directory)
    arrays, _ = read_safetensors(directory / "model.safetensors")
    prefix = f"{model.base_model_prefix}." if bare else ""
    arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    embedding = model.get_input_embeddings().weight.data
    head = embedding.copy() if head == "equal" else np.random.default_rng(3).normal(0, 0.2, embedding.shape)
    write_safetensors(directory / "model.safetensors", {"lm_head.weight": head.astype(np.float32), **arrays})
    if sharded:
        in_shards(directory)
    return snapshot(model), head.astype(np.float32)


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("bare", [False, True], ids=["whole", "without prefix"])
def test_another_head_than_the_embedding_is_kept_beside_it(tmp_path, make, sharded, bare):
    rest, head = with_head(tmp_path, make, "other", sharded, bare)
    with pytest.warns(UserWarning, match="tie_word_embeddings.* both are kept, untied"):
        loaded = load_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.lm_head.weight.data, head)
    assert {**snapshot(loaded), "lm_head.weight": rest["lm_head.weight"]} == rest
    assert loaded.lm_head.weight is not loaded.get_input_embeddings().weight
    assert not loaded.config.tie_word_embeddings
    loaded.save_pretrained(tmp_path / "again")
    assert snapshot(load_pretrained(tmp_path / "again")) == snapshot(loaded)


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
def test_the_embedding_a_second_time_stays_one_weight(tmp_path, make, sharded, recwarn):
    rest, _ = with_head(tmp_path, make, "equal", sharded)
    loaded = load_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert loaded.config.tie_word_embeddings
    assert snapshot(loaded) == rest
    assert not recwarn.list


@pytest.mark.parity
@pytest.mark.parametrize("head", ["equal", "other"])
@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
def test_transformers_sees_the_same_head(tmp_path, make, head, sharded):
    import torch
    import transformers

    with_head(tmp_path, make, head, sharded)
    with contextlib.nullcontext() if head == "equal" else pytest.warns(UserWarning, match="untied"):
        loaded = load_pretrained(tmp_path)
    loaded.save_pretrained(tmp_path / "again")
    ids = some_ids(loaded.config)
    for directory in (tmp_path, tmp_path / "again"):
        twin = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
        assert (twin.lm_head.weight is twin.get_input_embeddings().weight) == (head == "equal")
        with torch.no_grad():
            assert relative(logits_of(loaded), twin(torch.tensor(ids)).logits) < 2e-5


def test_a_gguf_file_with_a_head_of_its_own_is_untied(tmp_path, make):
    model = make(tie_word_embeddings=False) if make is tiny_model else tiny_llama(hidden_size=32, intermediate_size=64)
    loaded = load_pretrained(write_gguf(tmp_path / "model.gguf", model))
    assert not loaded.config.tie_word_embeddings
    loaded.save_pretrained(tmp_path / "again")
    assert snapshot(load_pretrained(tmp_path / "again")) == snapshot(model)


# What is missing, or does not fit


def make_pipe(path):
    os.mkfifo(path)


def make_broken_link(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("put", [Path.mkdir, make_pipe, make_broken_link])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors", "model.gguf"])
def test_what_is_no_file_is_refused_by_its_name(saved, name, put):
    """A pipe would be waited for, and a folder passed over."""
    if put is make_pipe and not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes here")
    (saved / name).unlink(missing_ok=True)
    put(saved / name)
    with pytest.raises(FileNotFoundError, match=rf"{name} (is a directory, not a file|is no file)"):
        load_pretrained(saved / name if name == "model.gguf" else saved)


def test_a_missing_gguf_file_is_named(tmp_path):
    for arguments in ((tmp_path / "model.gguf",), (tmp_path, "model.gguf")):
        with pytest.raises(FileNotFoundError, match=r"model\.gguf does not exist"):
            load_pretrained(*arguments)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, r"config.json: model_type 'mamba' is not known; known are gpt2, "),
        ({"model_type": None}, "config.json: model_type None is not known"),
        ({"n_head": 3}, "n_embd = 16 cannot be shared equally by n_head = 3"),
        ({"n_layer": "two"}, "n_layer must be a positive integer, got 'two'"),
        ({"n_layer": 3}, "missing transformer.h.2.ln_1.weight"),
        ({"n_layer": 1}, "unexpected transformer.h.1"),
        ({"tie_word_embeddings": False}, "missing lm_head.weight"),
        ({"n_positions": 13}, r"transformer.wpe.weight: \(12, 16\) instead of \(13, 16\)"),
        ({"activation_function": "prelu"}, "activation_function 'prelu' is not known"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(saved, changes, message):
    edit_config(saved, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(saved)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("transformer.ln_f.bias"), "missing transformer.ln_f.bias"),
        (lambda arrays: arrays.update(extra=np.ones(2)), "unexpected extra"),
        (lambda arrays: arrays.update({"transformer.ln_f.bias": np.ones(3)}), r"ln_f.bias: \(3,\) instead of \(16,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(saved, change, message):
    edit_weights(saved, change)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(saved)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "\ufeff{}", '{"model_type": ["gpt2"]}'])
def test_a_config_that_is_no_json_object_is_refused(saved, text):
    (saved / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_pretrained(saved)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model directory, and the bytes of its weights, for many damaged copies."""
    directory = tmp_path_factory.mktemp("model")
    tiny_model(n_embd=4, n_layer=1, vocab_size=5, n_positions=3).save_pretrained(directory)
    return directory, (directory / "model.safetensors").read_bytes()


@settings(fuzz, max_examples=60)
@given(st.data())
def test_truncated_weights_are_refused(whole, data):
    directory, content = whole
    path = directory / "model.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_pretrained(directory)
