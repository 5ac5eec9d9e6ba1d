"""Both models side by side, in float64: how PEFT's is brought to the state of ours, and what must be equal then."""

import copy
import warnings

import numpy as np
import peft
import torch
from lora_helpers import hugging_face_twin, relative, some_ids
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper

from lora_np import no_grad
from lora_sequences.differences import OTHER_NUMBERS, reason_in
from lora_sequences.settings import FAMILIES

TOLERANCE = 1e-9  # both sides compute in float64


def quietly(action):
    """action() with its warnings left out: PEFT warns about much that is meant here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return action()


def attempt(action, errors=Exception):
    """(what action() returns, None), or (None, the error)."""
    try:
        return quietly(action), None
    except errors as error:
        return None, error


class Plain:
    """A base model's class, configuration and weights, from which models are made: ours, or Transformers'."""

    def __init__(self, model):
        self.kind, self.config = type(model), copy.deepcopy(model.config)
        self.arrays = {name: array.astype(np.float64) for name, array in model.state_dict().items()}
        self.training, self._logits = model.training, None

    def put(self, name, array):
        """Another array in the place of one."""
        self.arrays[name], self._logits = array.copy(), None

    def logits(self):
        """What the model computes."""
        if self._logits is None:
            self._logits = logits(self.ours())
        return self._logits

    def ours(self):
        model = self.kind(copy.deepcopy(self.config)).to(dtype=np.float64)
        model.load_state_dict({name: array.copy() for name, array in self.arrays.items()})
        return model.train(self.training)

    def theirs(self):
        return hugging_face_twin(self.ours())


def plain_model(family):
    """The `Plain` of one of `FAMILIES`."""
    return Plain(FAMILIES[family]().to(dtype=np.float64))


def peft_config(config):
    """PEFT's config for one of ours. What its initialisation would compute is copied from ours instead."""
    fields = {name: value for name, value in config.to_dict().items() if name not in ("peft_type", "fan_in_fan_out")}
    if config.changes_base:
        fields["init_lora_weights"] = True
    return peft.LoraConfig(**fields)


def peft_model(plain, ours):
    """PEFT's model in the state of `ours`, a PeftModel in which nothing is merged."""
    (first, config), *others = ours.peft_config.items()
    theirs = peft.get_peft_model(plain.theirs(), peft_config(config), first)
    for name, config in others:
        theirs.add_adapter(name, peft_config(config))
    activate(theirs, ours.active_adapters)
    copy_numbers(ours, theirs)
    own = dict(ours.named_parameters())
    for name, p in their_parameters(theirs).items():
        p.requires_grad_(own[name].requires_grad)
    return theirs.train(ours.training)


def activate(theirs, names):
    """set_adapter for one or several: PEFT's PeftModel takes one, and the model inside it a list."""
    if names:
        theirs.set_adapter(names[0])
    if len(names) != 1:
        theirs.base_model.set_adapter(list(names))


def train_biases(ours, theirs):
    """PEFT's model trains the biases that ours trains."""
    own = dict(ours.named_parameters())
    for name, p in their_parameters(theirs).items():
        if name.endswith(".bias") and ".lora_" not in name and not p.requires_grad:
            p.requires_grad_(own[name].requires_grad)


def copy_numbers(ours, theirs):
    """Give PEFT's model the numbers of ours, and the scalings."""
    own = dict(ours.named_parameters())
    with torch.no_grad():
        for name, p in their_parameters(theirs).items():
            p.copy_(torch.tensor(own[name].data))
    for name, layer in ours.base_model.layers():
        theirs.get_submodule(f"base_model.model.{name}").scaling.update(layer.scaling)


def their_parameters(theirs):
    """{name: Parameter} of PEFT's model, with the names of plain modules where an emptied wrapper is left over."""
    empty = []
    for name, module in theirs.named_modules():
        if isinstance(module, BaseTunerLayer) and not module._get_available_adapters():
            empty.append((f"{name}.base_layer.", f"{name}."))
        if isinstance(module, ModulesToSaveWrapper) and not module.modules_to_save:
            empty.append((f"{name}.original_module.", f"{name}."))
    found = {}
    for name, p in theirs.named_parameters():
        for wrapped, plain in empty:
            name = name.replace(wrapped, plain)
        found[name] = p
    return found


def assert_same_parts(ours, theirs):
    """The same names, shapes, trained parameters, ranks, scalings, active and merged adapters."""
    own = {name: (p.shape, p.requires_grad) for name, p in ours.named_parameters()}
    other = {name: (tuple(p.shape), p.requires_grad) for name, p in their_parameters(theirs).items()}
    wrong = {name: (own.get(name), other.get(name)) for name in {**own, **other} if own.get(name) != other.get(name)}
    assert not wrong, f"(shape, trained) here and in PEFT: {wrong}"
    assert set(ours.peft_config) == set(theirs.peft_config)
    active = list(ours.active_adapters), list(theirs.active_adapters)
    assert active[0] == active[1], f"active here and in PEFT: {active}"
    for name, layer in ours.base_model.layers():
        module = theirs.get_submodule(f"base_model.model.{name}")
        assert {n: a.r for n, a in layer.adapters.items()} == module.r, name
        for adapter, scaling in layer.scaling.items():
            assert abs(scaling - module.scaling[adapter]) <= 1e-12 * abs(scaling), f"scaling of {adapter} in {name}"
        assert layer.active_adapters == [a for a in module.active_adapters if a in module.r], f"active in {name}"
        assert layer.merged_adapters == module.merged_adapters, f"merged in {name}"


def assert_same_weights(ours, theirs):
    """Every parameter has the same numbers, up to rounding."""
    own = dict(ours.named_parameters())
    for name, p in their_parameters(theirs).items():
        assert relative(own[name].data, p.detach().numpy()) < TOLERANCE, f"{name} has other numbers"


def assert_same_results(ours, theirs):
    """The same logits, and the same gradients where something is trained and nothing is merged."""
    if reason_in(OTHER_NUMBERS, ours):
        return
    ids = some_ids(ours.config, batch=3, time=6)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    assert relative(logits(ours), expected) < TOLERANCE, "other logits"
    if ours.base_model.merged or not any(p.requires_grad for p in ours.parameters()):
        return
    their_loss(theirs).backward()
    expected = {name: p.grad.numpy() for name, p in their_parameters(theirs).items() if p.grad is not None}
    found = gradients(ours)
    assert set(found) == set(expected), f"gradients of others: {set(found) ^ set(expected)}"
    for name, gradient in found.items():
        assert np.allclose(gradient, expected[name], rtol=1e-8, atol=1e-12), f"other gradient of {name}"


def their_loss(theirs):
    """The loss of PEFT's model, its gradients cleared before. (Transformers' own would be in float32.)"""
    theirs.zero_grad()
    ids = torch.tensor(some_ids(theirs.config, batch=3, time=6))
    found = theirs(ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(found.reshape(-1, found.shape[-1]), ids[:, 1:].reshape(-1))


def logits(model, **options):
    """The logits for the three rows of ids that are used throughout."""
    with no_grad():
        return model(some_ids(model.config, batch=3, time=6), **options).logits.numpy().copy()


def gradients(model):
    """{name: gradient}, and no gradient is left behind."""
    ids = some_ids(model.config, batch=3, time=6)
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def logits_of_peft(model):
    """The logits of a PyTorch model for the same ids."""
    with torch.no_grad():
        return model(torch.tensor(some_ids(model.config, batch=3, time=6))).logits.numpy()


def disabled_logits(model):
    """The logits inside disable_adapter()."""
    with model.disable_adapter():
        return logits(model)
