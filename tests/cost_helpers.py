"""Configurations of well-known models and of little ones, and a training step that is measured."""

import tracemalloc

import numpy as np

from lora_np.autograd.threads import limit_threads
from lora_np.nn import memory_footprint
from lora_np.training import AdamW

GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024}
LLAMA3 = {"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336}
LLAMA3 |= {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False}
LLAMA2 = {**LLAMA3, "vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": 32}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT3 = {**GPT2, "n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048}
SMALL_LLAMA = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SMALL_LLAMA |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
SMOLLM2 = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
SMOLLM2 |= {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
LITTLE_GPT2 = {"vocab_size": 256, "n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 128}
LITTLE_GPT2 |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
LITTLE_LLAMA = {"vocab_size": 256, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3}
LITTLE_LLAMA |= {"num_attention_heads": 6, "num_key_value_heads": 2}


def traced_step(model, batch=4, length=128, shards=1):
    """{"weights", "gradients", "optimizer", "activations"}: bytes of one training step of what is not frozen."""
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    ids = np.random.default_rng(1).integers(0, model.config.vocab_size, (batch, length))
    found = {"weights": memory_footprint(model)}
    with limit_threads(shards):
        model.train()(input_ids=ids[:shards], labels=ids[:shards])  # what is set up at first use does not count
        tracemalloc.start()
        try:
            model(input_ids=ids, labels=ids).loss.backward()
            found["gradients"], found["activations"] = tracemalloc.get_traced_memory()
            optimizer.step()
            found["optimizer"] = tracemalloc.get_traced_memory()[0] - found["gradients"]
        finally:
            tracemalloc.stop()
    return found
