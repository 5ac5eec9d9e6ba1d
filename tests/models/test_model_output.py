"""Three ways to ask an output, the same as in Transformers."""

import numpy as np
import pytest
from lora_helpers import some_ids, tiny_model

from lora_np import KVCache, no_grad
from lora_np.models.output import ShardedOutput


def outputs(labels=True, **options):
    model = tiny_model()
    ids = some_ids(model.config)
    return model(input_ids=ids, labels=ids if labels else None, **options)


def test_with_labels_the_loss_comes_first():
    out = outputs()
    assert list(out.keys()) == list(out) == ["loss", "logits"]
    assert out[0] is out["loss"] is out.loss
    assert out[1] is out["logits"] is out.logits is out[-1]
    loss, logits = out.to_tuple()
    assert (loss is out.loss, logits is out.logits) == (True, True)
    assert out[:2] == (out.loss, out.logits)
    assert dict(out.items()) == {"loss": out.loss, "logits": out.logits}
    assert list(out.values()) == [out.loss, out.logits]


def test_without_labels_the_logits_do():
    out = outputs(labels=False)
    assert list(out) == ["logits"]
    assert out[0] is out.logits
    assert len(out) == 1
    assert "loss" not in out
    assert out.get("loss") is None


def test_a_cache_is_there_if_it_was_given():
    with no_grad():
        out = outputs(labels=False, past_key_values=KVCache(9))
    assert list(out) == ["logits", "past_key_values"]
    assert out["past_key_values"] is out.past_key_values


@pytest.mark.parametrize("shards", [1, 2])
def test_asking_for_names_and_for_the_text_computes_no_logits(shards):
    out = outputs() if shards == 1 else ShardedOutput([outputs(), outputs()], outputs().loss)
    text = repr(out)
    assert "logits" in out
    assert out[0] is out.loss
    held = out.outputs if isinstance(out, ShardedOutput) else [out]
    assert all(part._logits is None for part in held)
    assert text == f"{type(out).__name__}(loss={out.loss:.4f}, logits=Tensor of shape {out.logits.shape})"
    assert repr(out) == text


def test_what_is_not_there():
    out = outputs()
    with pytest.raises(KeyError, match="this output has no 'hidden_states', it has loss, logits"):
        out["hidden_states"]
    with pytest.raises(IndexError):
        out[2]


@pytest.mark.parity
def test_names_and_order_like_transformers():
    import torch
    from transformers.modeling_outputs import CausalLMOutputWithPast

    out = outputs()
    theirs = CausalLMOutputWithPast(*(torch.tensor(np.asarray(part)) for part in out.to_tuple()))
    assert list(out.keys()) == list(theirs.keys())
    assert [np.shape(part) for part in out[:2]] == [part.shape for part in theirs[:2]]
    assert len(out.to_tuple()) == len(theirs.to_tuple())
