"""What the rules are written with: both sides, an operation done on both, and what must hold after every rule."""

import copy
import tempfile

import numpy as np
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition

from lora_np import LoraConfig
from lora_sequences import sides
from lora_sequences.differences import DONE_OTHERWISE, REFUSED_BY_PEFT, REFUSED_HERE, reason_for
from lora_sequences.sides import attempt, quietly
from lora_sequences.snapshots import changes, identities, snapshot

NAMES = ["default", "b", "other", "third"]  # no part of a module's name: PEFT looks for adapters' names in those
REFUSALS = (ValueError, RuntimeError, KeyError, TypeError)
ANY = st.integers(0, 9)  # which adapter, or which folder: counted round, 9 for one that is not there
SEVERAL = st.lists(st.integers(0, 3), min_size=1, max_size=3)

with_adapters = precondition(lambda self: self.ours is not None)


def short(config):
    """A config's unusual fields."""
    usual = LoraConfig()
    fields = {name: value for name, value in vars(config).items() if value != getattr(usual, name)}
    return f"LoraConfig({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


class Workbench(RuleBasedStateMachine):
    """A model with adapters, this library's and PEFT's.

    ours      the PeftModel, or None while there is a plain model only
    theirs    PEFT's, or None where PEFT cannot represent what is here
    plain     the base model, as it must be with the adapters disabled
    unmerged  (snapshot, logits) from before a merge, or None
    folders   where adapters have been saved so far
    """

    def __init__(self):
        super().__init__()
        self.ours = self.theirs = self.unmerged = None
        self.folders, self.seed = [], 0
        self.temporary = tempfile.TemporaryDirectory()

    def teardown(self):
        self.temporary.cleanup()

    # What the rules are written with

    def name(self, which):
        """The name of an adapter that is there, or, for 9, of none."""
        names = list(self.ours.peft_config)
        return names[which % len(names)] if which < 9 and names else "missing"

    def new_name(self, which):
        """A name that no adapter has, or, for 9, one that may be taken."""
        free = [name for name in NAMES if self.ours is None or name not in self.ours.peft_config]
        return free[which % len(free)] if free and which < 9 else NAMES[0]

    def names(self, several):
        return list(dict.fromkeys(self.name(which) for which in several))

    def refused_here(self, what, action):
        """Do it here. None if it is done; if it is refused, the message, and nothing may have changed."""
        before = snapshot(self.ours), identities(self.ours)
        _, error = attempt(action, REFUSALS)
        if error is None:
            note(what)
            return None
        message = str(error.args[0]) if error.args else ""
        note(f"{what}: {type(error).__name__}: {message[:300]}")
        assert " " in message, f"no sentence: {error!r}"
        after = snapshot(self.ours), identities(self.ours)
        assert after == before, f"{what} was refused and changed the model:\n{changes(before[0], after[0])}"
        return message

    def both(self, what, action, their_action, ends=False):
        """Do it on both sides; True if it is done here. One may refuse it and the other not where that is listed.

        ends: are there no adapters afterwards?
        """
        refusal = self.refused_here(what, action)
        if self.theirs is None:
            return refusal is None
        if refusal and reason_for(REFUSED_HERE, refusal):
            return False
        their_refusal = self.refused_by_peft(their_action)
        if refusal:
            assert their_refusal, f"refused here, and PEFT does it, which is not listed: {refusal}"
        elif their_refusal:
            assert reason_for(REFUSED_BY_PEFT, their_refusal), f"PEFT refuses it, which is not listed: {their_refusal}"
        if their_refusal and (refusal or not ends):
            self.rebuild()
        return refusal is None

    def refused_by_peft(self, action):
        """None if PEFT does it, or its message."""
        _, error = attempt(action)
        if error is None:
            return None
        note(f"    PEFT: {type(error).__name__}: {str(error)[:300]}")
        return f"{type(error).__name__}: {error}"

    def rebuild(self):
        """Bring PEFT's model to the state of ours, or do without it where PEFT refuses that."""
        if self.ours is None or self.ours.base_model.merged or not self.ours.peft_config:
            self.theirs = None
            return
        self.theirs, error = attempt(lambda: sides.peft_model(self.plain, self.ours))
        self.do_without(error)

    def do_without(self, error):
        """Go on without PEFT's model where it could not be brought to the state of ours, if that is listed."""
        if error is not None:
            message = f"{type(error).__name__}: {error}"
            assert reason_for(REFUSED_BY_PEFT, message), f"PEFT cannot be brought here: {message}"
            self.theirs = None

    def otherwise(self, name, action):
        """Bring PEFT's model to the state of ours where it is known to do a thing in another way."""
        note(f"    PEFT otherwise: {DONE_OTHERWISE[name]}")
        quietly(action)

    def copy_over(self):
        """PEFT's model gets the numbers of ours."""
        if self.theirs is not None:
            _, error = attempt(lambda: sides.copy_numbers(self.ours, self.theirs))
            self.do_without(error)

    def shake(self, name):
        """Noise on all that is new in an adapter, so that nothing is zero; the same for PEFT's."""
        self.seed += 1
        rng = np.random.default_rng(self.seed)
        for tensor in self.ours.base_model.adapter(name).tensors().values():
            tensor.data = tensor.data + 0.2 * rng.standard_normal(tensor.shape)
        self.copy_over()

    def alone(self, name):
        """A copy of the model in which only this adapter is active."""
        model = copy.deepcopy(self.ours)
        model.set_adapter(name)
        return model

    def merged_logits(self, names, unloading):
        """What these adapters (None: the merged or active ones) give once they are merged, computed without merging.

        A layer that has none of them goes on with its active adapters, as in PEFT; unloaded, it is the plain layer.
        """
        model = copy.deepcopy(self.ours)
        names = (model.base_model.merged or None) if names is None else names
        model.unmerge_adapter()
        for _, layer in model.base_model.layers():
            chosen = layer.chosen(names)
            layer.active_adapters = chosen if chosen or unloading else layer.active_adapters
        for _, module in model.base_model.saved_modules() if unloading and names is not None else ():
            module.active_adapters = names
        return sides.logits(model)

    def keep_biases(self):
        """Trained biases are part of the base model from now on."""
        for config in self.ours.peft_config.values():
            for name, p in self.ours.base_model.biases(config.bias).items():
                self.plain.put(name.replace(".base_layer.", "."), p.data)

    def keep_bases(self, name):
        """So are the base weights that an adapter's file brought."""
        for target, adapter in self.ours.base_model.adapter(name).adapters.items():
            if adapter.brings_base:
                self.plain.put(f"{target}.weight", self.ours.base_model.adapted[target].base_layer.weight.data)

    # What must hold after each rule

    @invariant()
    def equal_to_peft(self):
        if self.theirs is not None:
            sides.assert_same_parts(self.ours, self.theirs)
            sides.assert_same_results(self.ours, self.theirs)

    @invariant()
    def disabled_is_the_base(self):
        if self.ours is None:
            return
        before = snapshot(self.ours)
        with self.ours.disable_adapter():
            assert np.array_equal(sides.logits(self.ours), self.plain.logits()), "disabled is not the base"
        assert snapshot(self.ours) == before
