"""Small models, their twins in PyTorch, and snapshots: what several tests of models and adapters share."""

import hashlib
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from lora_np import GPT2Config, GPT2LMHeadModel, LoraConfig, PeftModel, get_peft_model, nn
from lora_np.lora import rows
from lora_np.lora.layer import AdaptedLayer
from lora_np.models import LlamaConfig, LlamaForCausalLM
from lora_np.models.rope import context_length
from lora_np.storage import read_safetensors
from lora_np.training.optim import SGD

# Fuzzing that is the same in every run and is not hurried.
fuzz = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

# One of each way to say which layers of a GPT-2 are adapted.
TARGETS = {
    "c_attn": ["c_attn"],
    "two": ["c_attn", "mlp.c_proj"],
    "regex": r"transformer\.h\.\d+\.(attn|mlp)\.c_(attn|fc)",
    "all-linear": "all-linear",
}


def tiny_config(**changes):
    """A GPT-2 so small that a test of the whole model takes milliseconds. Nothing in it is random."""
    small = {"vocab_size": 31, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2Config(**{**small, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **changes})


def randomize(model, seed=0, scale=0.2):
    """Give every parameter random values: zeros and ones, as biases and norms start, would hide mistakes."""
    rng = np.random.default_rng(seed)
    for name, p in model.named_parameters():
        centre = 1.0 if p.ndim == 1 and name.endswith("weight") else 0.0
        p.data = (centre + scale * rng.standard_normal(p.shape)).astype(p.dtype)
    return model


def tiny_model(seed=0, **changes):
    """A tiny GPT-2 with random weights, in evaluation mode."""
    return randomize(GPT2LMHeadModel(tiny_config(**changes)), seed).eval()


def tiny_llama_config(**changes):
    """A Llama of the size of `tiny_config`, with two heads of queries for each of keys and values."""
    small = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 12}
    return LlamaConfig(**{**small, **heads, "eos_token_id": None, **changes})


def tiny_llama(seed=0, **changes):
    """A tiny Llama with random weights, in evaluation mode."""
    return randomize(LlamaForCausalLM(tiny_llama_config(**changes)), seed).eval()


def some_ids(config, batch=2, time=9, seed=1):
    """Random token ids (batch, time) for a model of this config."""
    shape = batch, min(time, context_length(config))
    return np.random.default_rng(seed).integers(0, config.vocab_size, shape)


def peft_model(targets=("c_attn",), model=None, adapter_name="default", **options):
    """A PeftModel on a tiny GPT-2; A and B are both random, so that the adapter does something from the start."""
    targets = targets if targets is None or isinstance(targets, str) else list(targets)
    model = tiny_model() if model is None else model
    # GPT-2's layers are all Conv1D, but for the head; Llama's are all Linear
    conv1d = isinstance(model, GPT2LMHeadModel) and targets not in ("lm_head", ["lm_head"])
    options = {"r": 4, "lora_alpha": 8, "init_lora_weights": False, "fan_in_fan_out": conv1d, **options}
    return get_peft_model(model, LoraConfig(target_modules=targets, **options), adapter_name)


def relative(found, expected):
    """The norm of the difference over the norm of what is expected."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    assert found.shape == expected.shape
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30)


def snapshot(model):
    """All that a failed call must leave as it was: classes, modes, bits and what is trained, one line for each."""
    lines = {f"{name}:": f"{type(part).__name__}, training={part.training}" for name, part in model.named_modules()}
    for name, p in model.named_parameters(remove_duplicate=False):
        bits = hashlib.sha256(p.data.tobytes()).hexdigest()[:16]
        lines[name] = f"{bits} {p.dtype} {p.shape}, requires_grad={p.requires_grad}"
    return lines


def refusal(error, action):
    """The message with which `action()` is refused."""
    with pytest.raises(error) as caught:
        action()
    return caught.value.args[0]


def hugging_face_twin(model):
    """Transformers' model with the configuration, the weights and the mode of `model`."""
    import torch
    import transformers

    torch.set_num_threads(1)  # several, on models this small, spend their time waiting for each other
    fields = {k: v for k, v in model.config.to_dict().items() if k != "architectures"}
    config = transformers.AutoConfig.for_model(**fields)
    config._attn_implementation = _attention_for(model)
    twin = transformers.AutoModelForCausalLM.from_config(config).train(model.training)
    state = {name: torch.tensor(array) for name, array in model.state_dict().items()}
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}  # tied: it comes under its other name
    if model.lm_head.weight.dtype == np.float64:
        twin.to(torch.float64).load_state_dict(state, strict=False)
        _in_float64(twin, model)
    return twin


def _attention_for(model):
    """Which of Transformers' attentions to compare with. (Gemma 3's config has a cap on scores, its model none.)

    Its own ("eager") softmax is in float32 also where the model is in float64, but for GPT-2's, and torch's (sdpa) has
    no cap on scores: then it is written out here.
    """
    import torch
    import transformers
    from transformers.masking_utils import eager_mask

    if model.config.model_type != "gemma2":
        return "eager" if model.config.model_type == "gpt2" else "sdpa"

    def written_out(module, query, key, value, mask, scaling=None, softcap=None, **kwargs):
        key, value = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
        scores = query @ key.transpose(2, 3) * scaling
        scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
        return ((scores if mask is None else scores + mask).softmax(-1) @ value).transpose(1, 2), None

    transformers.AttentionInterface.register("written_out", written_out)
    transformers.AttentionMaskInterface.register("written_out", eager_mask)
    return "written_out"


def _in_float64(twin, model):
    """Have a Llama or a relative of it compute its norms in float64 too, and take our angles, which are float32.

    Powers of θ differ in the last bit of a float32, so the angles are only held to that here.
    """
    import torch

    positions = getattr(getattr(model, model.base_model_prefix), "rotary_emb", None)

    def rms_norm(self, x):
        weight = self.weight + 1 if type(self).__name__.startswith("Gemma") else self.weight
        epsilon = getattr(self, "variance_epsilon", None) or self.eps
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))

    def rotary(theirs):
        def forward(self, x, position_ids, *layer_type):
            ours = positions(position_ids.numpy(), like=model.lm_head.weight)
            ours = ours[layer_type[0]] if layer_type else ours
            angles = tuple(torch.tensor(np.concatenate([part, part], -1)) for part in ours)
            for found, expected in zip(angles, theirs(x, position_ids, *layer_type), strict=True):
                np.testing.assert_allclose(found, expected, atol=1e-5)
            return angles

        return forward

    for module in twin.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = rms_norm.__get__(module)
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = rotary(module.forward).__get__(module)


def peft_twin(model, config):
    """PEFT's model on `hugging_face_twin(model)` with the same LoraConfig, its adapter drawn by PyTorch."""
    import peft
    import torch

    torch.manual_seed(0)
    fields = {name: value for name, value in config.to_dict().items() if name not in ("peft_type", "fan_in_fan_out")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = peft.LoraConfig(**fields, fan_in_fan_out=model.config.model_type == "gpt2")
        return peft.get_peft_model(hugging_face_twin(model), options).train(model.training)


def copy_parameters(twin, model):
    """Give `model` the values of the PyTorch model `twin`, whose parameters have the same names."""
    model.load_state_dict({name: p.detach().numpy() for name, p in twin.named_parameters()})


def gradients(model):
    """{name: gradient} after one backward pass, for the parameters that got one."""
    ids = some_ids(model.config)
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def perturbed(model, seed=2, scale=0.1):
    """`model` with noise on all that is trained: nothing in its adapters is zero, or as it started."""
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        if p.requires_grad:
            p.data = (p.data + scale * rng.standard_normal(p.shape)).astype(p.dtype)
    return model


def assert_equal_to_peft(config, base):
    """PEFT and this library, with the same weights, have the same names, logits, loss and gradients."""
    import torch

    twin = peft_twin(base, config)
    ours = perturbed(get_peft_model(base, config))
    values = dict(ours.named_parameters())
    assert {name: p.shape for name, p in values.items()} == {n: tuple(p.shape) for n, p in twin.named_parameters()}
    with torch.no_grad():
        for name, p in twin.named_parameters():
            p.copy_(torch.tensor(values[name].data))
    ids = some_ids(ours.config)
    expected = twin(input_ids=torch.tensor(ids), labels=torch.tensor(ids))
    expected.loss.backward()
    assert relative(logits_of(ours), expected.logits.detach()) < 2e-5
    assert relative(ours(ids, labels=ids).loss.item(), expected.loss.item()) < 2e-5
    theirs = {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
    found = gradients(ours)
    assert set(found) == set(theirs)
    for name, gradient in found.items():
        assert relative(gradient, theirs[name]) < 2e-5, name


def assert_exchanged_with_peft(config, base, directory):
    """The two write files of the same layout, and each reads the other's with equal logits; returns the layout."""
    import peft
    import torch

    ids = torch.tensor(some_ids(base.config))
    fresh = hugging_face_twin(base)
    twin = peft_twin(base, config)
    with torch.no_grad():
        for p in twin.parameters():
            p += 0.1 * torch.randn_like(p) if p.requires_grad else 0
        expected = twin(ids).logits.numpy()
    twin.save_pretrained(directory / "theirs")
    ours = PeftModel.from_pretrained(base, directory / "theirs", is_trainable=True)
    assert relative(logits_of(ours), expected) < 2e-5

    perturbed(ours).save_pretrained(directory / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns about missing keys and unknown fields
        back = peft.PeftModel.from_pretrained(fresh, directory / "ours")
    with torch.no_grad():
        assert relative(logits_of(ours), back(ids).logits) < 2e-5
    files = [read_safetensors(directory / who / "adapter_model.safetensors")[0] for who in ("ours", "theirs")]
    layouts = [{name: array.shape for name, array in arrays.items()} for arrays in files]
    # PEFT puts the base weight of an adapted "embed_tokens" beside the adapter.
    base_weights = {name for name in layouts[1] if name.endswith("embed_tokens.base_layer.weight")}
    assert layouts[0] == {name: shape for name, shape in layouts[1].items() if name not in base_weights}
    return layouts[0]


def assert_merges(model, tolerance):
    """Merged results are the same; unmerging and disabling are exact to the bit; the unloaded model agrees too."""
    expected, before = logits_of(model), snapshot(model)
    with model.disable_adapter():
        base = logits_of(model)
    assert relative(expected, base) > 1e-3
    model.merge_adapter(safe_merge=True)
    assert relative(logits_of(model), expected) < tolerance
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), base)
    model.unmerge_adapter()
    assert snapshot(model) == before
    np.testing.assert_array_equal(logits_of(model), expected)
    plain = model.merge_and_unload()
    assert relative(logits_of(plain), expected) < tolerance
    assert not any(isinstance(module, AdaptedLayer) for module in plain.modules())


class TwoLayers(nn.Module):
    """A network that is no language model: two linear layers of either kind."""

    def __init__(self):
        self.first, self.second = nn.Linear(6, 5), nn.Conv1D(3, 5)

    def forward(self, x):
        return self.second(self.first(x))


def assert_state_comes_back(model, base, folder, part):
    """Saved after a training step and loaded, it has the same tensors, one with `part` in its name, and logits."""
    gradients(model.train())
    model.eval().save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base, folder, is_trainable=True)
    state = loaded.state_dict()
    assert any(part in name for name in state)
    assert all(np.array_equal(array, state[name]) for name, array in model.state_dict().items())
    assert np.array_equal(logits_of(loaded), logits_of(model))


def assert_loss_falls(model, lr=0.3, steps=6, by=1e-3, term=lambda: 0.0):
    """A few steps of SGD on one batch bring the loss and `term()` down, and each trained tensor has a gradient."""
    optimizer, ids, losses = SGD([p for p in model.parameters() if p.requires_grad], lr=lr), some_ids(model.config), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss + term()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - by, losses
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)


def logits_of(model, ids=None):
    """The logits as an array of their own, for `some_ids` unless told otherwise: of our model or of PyTorch's."""
    ids = some_ids(model.config) if ids is None else ids
    if isinstance(model, nn.Module):
        return model(ids).logits.numpy().copy()
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids)).logits.numpy()


def load_in_peft(model, directory):
    """PEFT's model with the adapter in `directory`, on the PyTorch twin of the plain model `model`."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(hugging_face_twin(model), directory).eval()


def rows_as_on_a_gpu(monkeypatch):
    """Rows with adapters of their own take the way that they take on a GPU, with NumPy in the place of its kernels.

    As there, what is made ready has the arrays of that moment. Returns a list that gets how many layers, for each time.
    """
    made = []

    def ready(layers):
        made.append(len(layers))
        return layers

    def rows_in(x, layers):
        return [[None if u is None else u[2] * (x_b @ u[0].T) for u, x_b in zip(own, x, strict=True)] for own in layers]

    def rows_out(y, h, layers, i):
        for y_b, h_b, update in zip(y, h[i], layers[i], strict=True):
            if update is not None:
                y_b += h_b @ update[1].T

    def rows_swiglu(gate, up, h, layers):
        for i, y in enumerate((gate, up)):
            rows_out(y, h, layers, i)
        gate[...] = gate / (1 + np.exp(-gate)) * up

    kernels = {"ready": ready, "in": rows_in, "out": rows_out, "swiglu": rows_swiglu}

    def implementation(name, arrays):
        return kernels[name.removeprefix("lora_rows_")]

    for name, value in (
        ("on_gpu", lambda x: True),
        ("float32_or_16_bits", lambda x: True),
        ("implementation", implementation),
    ):
        monkeypatch.setattr(rows, name, value)
    beside = sys.modules["lora_np.nn.beside"]
    monkeypatch.setattr(beside, "float32_or_16_bits", lambda x: True)
    monkeypatch.setattr(beside, "PARTS", {})
    return made
