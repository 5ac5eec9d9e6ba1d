"""Rules that make, switch, rename, combine and end adapters."""

import numpy as np
import peft
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from lora_helpers import relative
from peft.utils.other import ModulesToSaveWrapper

from lora_np import LoraConfig, get_peft_model
from lora_np.lora.combine import KINDS, SIGN_METHODS
from lora_sequences import sides
from lora_sequences.differences import (
    OTHER_COMBINATION,
    OTHER_COMBINED_LAYERS,
    OTHER_NUMBERS,
    OTHER_UNLOADED,
    REFUSED_HERE,
    reason_for,
    reason_in,
)
from lora_sequences.settings import FAMILIES, TARGETS, kind_of, lora_fields
from lora_sequences.sides import TOLERANCE, attempt
from lora_sequences.snapshots import identities, snapshot
from lora_sequences.workbench import ANY, SEVERAL, Workbench, short, with_adapters


class Adapters(Workbench):
    @initialize(family=st.sampled_from(sorted(FAMILIES)), training=st.booleans(), data=st.data(), new=ANY)
    def begin(self, family, training, data, new):
        self.family, self.kind = family, kind_of(family)
        self.plain = sides.plain_model(family)
        self.plain.training = training
        note(f"a {family} in {'training' if training else 'evaluation'} mode")
        self.begin_with(self.config(data), self.new_name(new))

    def config(self, data):
        """A LoraConfig, or None where it is refused, and PEFT refuses it or what is made of it."""
        fields = data.draw(lora_fields(self.kind), label="settings")
        config, error = attempt(lambda: LoraConfig(**fields), ValueError)
        if error and not reason_for(REFUSED_HERE, str(error)):
            theirs = lambda: peft.get_peft_model(self.plain.theirs(), peft.LoraConfig(**fields))  # noqa: E731
            assert self.refused_by_peft(theirs), f"only this library refuses {fields}: {error}"
        return config

    @precondition(lambda self: self.ours is None)
    @rule(data=st.data(), new=ANY)
    def create(self, data, new):
        self.begin_with(self.config(data), self.new_name(new))

    def begin_with(self, config, name):
        if config is None:
            return
        model = self.plain.ours()
        before = snapshot(model), identities(model)
        self.ours, error = attempt(lambda: get_peft_model(model, config, name), ValueError)
        if error:
            note(f"get_peft_model: {error}")
            assert (snapshot(model), identities(model)) == before, "a refused get_peft_model changed the model"
            theirs = lambda: peft.get_peft_model(self.plain.theirs(), sides.peft_config(config))  # noqa: E731
            listed = reason_for(REFUSED_HERE, str(error)) or self.refused_by_peft(theirs)
            assert listed, f"refused here, and PEFT does it, which is not listed: {error}"
            return
        note(f"get_peft_model({short(config)}, {name!r})")
        self.rebuild()
        self.shake(name)

    @with_adapters
    @rule(data=st.data(), new=ANY)
    def add(self, data, new):
        config = self.config(data)
        if config is not None:
            self.add_one(config, self.new_name(new))

    @with_adapters
    @rule(data=st.data(), r=st.integers(1, 2), new=ANY)
    def add_plain(self, data, r, new):
        """An adapter with few settings, so that there are several that can be combined."""
        targets = data.draw(st.lists(st.sampled_from(TARGETS[self.kind][:5]), min_size=1, max_size=2, unique=True))
        self.add_one(LoraConfig(target_modules=targets, r=r, lora_alpha=3), self.new_name(new))

    def add_one(self, config, name):
        action = lambda: self.ours.add_adapter(name, config)  # noqa: E731
        theirs = lambda: self.theirs.add_adapter(name, sides.peft_config(config))  # noqa: E731
        if self.both(f"add_adapter({name!r}, {short(config)})", action, theirs):
            modules = [] if self.theirs is None else self.theirs.modules()
            wrapped = any(isinstance(module, ModulesToSaveWrapper) for module in modules)
            if wrapped and config.target_modules == "all-linear":
                self.otherwise("all-linear leaves out the head", self.rebuild)
            self.shake(name)

    @with_adapters
    @rule(merge=st.booleans(), safe=st.booleans(), several=st.one_of(st.none(), SEVERAL))
    def end(self, merge, safe, several):
        """merge_and_unload, or unload."""
        names = None if several is None else self.names(several)
        expected = self.merged_logits(names, unloading=True) if merge else None
        ours, theirs = self.ours, self.theirs
        otherwise = reason_in(OTHER_NUMBERS, ours, names) or reason_in(OTHER_UNLOADED, ours, names)
        result = {}

        def action():
            result["ours"] = ours.merge_and_unload(safe_merge=safe, adapter_names=names) if merge else ours.unload()

        def their_action():
            end = theirs.base_model.merge_and_unload if merge else theirs.base_model.unload
            result["theirs"] = end(safe_merge=safe, adapter_names=names) if merge else end()

        what = f"merge_and_unload({safe}, {names})" if merge else "unload()"
        if not self.both(what, action, their_action, ends=True):
            return
        plain = result["ours"]
        if merge:
            assert relative(sides.logits(plain), expected) < TOLERANCE, "unloaded, and other logits"
        else:
            assert np.array_equal(sides.logits(plain), self.plain.logits()), "unloaded, and not the base"
        if self.theirs is not None and "theirs" in result and merge and not otherwise:
            expected = sides.logits_of_peft(result["theirs"])
            assert relative(sides.logits(plain), expected) < TOLERANCE, "PEFT's unloaded model has other logits"
        self.plain, self.ours, self.theirs, self.unmerged = sides.Plain(plain), None, None, None

    @with_adapters
    @rule(which=st.one_of(ANY, SEVERAL))
    def set_adapter(self, which):
        names = self.names(which) if isinstance(which, list) else [self.name(which)]
        given = names if isinstance(which, list) else names[0]
        action = lambda: self.ours.set_adapter(given)  # noqa: E731
        done = self.both(f"set_adapter({given!r})", action, lambda: sides.activate(self.theirs, names))
        biases = any(config.bias != "none" for config in self.ours.peft_config.values())
        if done and biases and self.theirs is not None:
            train = lambda: sides.train_biases(self.ours, self.theirs)  # noqa: E731
            self.otherwise("set_adapter trains the biases, too", train)

    @with_adapters
    @rule(which=ANY)
    def delete(self, which):
        name = self.name(which)
        changed = getattr(self.ours.peft_config.get(name), "changes_base", False)
        was_active = name in self.ours.active_adapters
        action = lambda: self.ours.delete_adapter(name)  # noqa: E731
        if self.both(f"delete_adapter({name!r})", action, lambda: self.theirs.delete_adapter(name)):
            if changed:
                self.otherwise("delete_adapter puts back what PiSSA took", self.copy_over)
            names = self.ours.active_adapters
            left = names or list(self.ours.peft_config)
            if self.theirs is not None and left:
                self.theirs.active_adapter = left[0]  # PeftModel's own; it may still be the deleted one's name
                if was_active:
                    self.otherwise("the first of the others becomes active", lambda: sides.activate(self.theirs, names))
            if not self.ours.peft_config:
                self.theirs = None

    @with_adapters
    @rule(which=ANY, new=ANY)
    def rename(self, which, new):
        old, new = self.name(which), self.new_name(new)
        if self.refused_here(f"rename_adapter({old!r}, {new!r})", lambda: self.ours.rename_adapter(old, new)) is None:
            self.rebuild()  # PEFT has no such call

    @with_adapters
    @rule(which=ANY, scale=st.sampled_from([0.0, 0.5, 1.0, -2.0]))
    def set_scale(self, which, scale):
        name = self.name(which)
        if self.refused_here(f"set_scale({name!r}, {scale})", lambda: self.ours.set_scale(name, scale)) is None:
            self.copy_over()

    @with_adapters
    @rule()
    def untie(self):
        note("untie_weights()")
        if self.ours.base_model.merged:
            return
        before = sides.logits(self.ours)
        self.ours.untie_weights()
        assert np.array_equal(sides.logits(self.ours), before)
        self.plain.config.tie_word_embeddings = self.ours.config.tie_word_embeddings
        if not self.ours.config.tie_word_embeddings and "lm_head.weight" not in self.plain.arrays:
            embedding = "transformer.wte.weight" if self.kind == "gpt2" else "model.embed_tokens.weight"
            self.plain.put("lm_head.weight", self.plain.arrays[embedding])
        self.rebuild()

    @with_adapters
    @rule(
        kind=st.sampled_from(KINDS),
        several=SEVERAL,
        weights=st.lists(st.sampled_from([1.0, 0.5, -0.7, 0.0, 2.0]), min_size=3, max_size=3),
        svd_rank=st.one_of(st.none(), st.integers(1, 6)),
        density=st.one_of(st.none(), st.sampled_from([0.3, 0.7, 1.0])),
        method=st.sampled_from(SIGN_METHODS),
        new=ANY,
    )
    def combine(self, kind, several, weights, svd_rank, density, method, new):
        """add_weighted_adapter: the same ΔW in every layer, and from then on the same numbers."""
        names, name = self.names(several), self.new_name(new)
        weights = weights[: len(names)]
        options = {"svd_rank": svd_rank, "density": density, "majority_sign_method": method}
        arguments = names, weights, name, kind
        action = lambda: self.ours.add_weighted_adapter(*arguments, **options)  # noqa: E731
        theirs = lambda: self.theirs.add_weighted_adapter(*arguments, **options)  # noqa: E731
        configs = [self.ours.peft_config.get(n) for n in names]
        if not self.both(f"add_weighted_adapter{arguments}, {options}", action, theirs):
            return
        if self.theirs is None:
            return
        if not reason_in(OTHER_COMBINATION, kind, configs, svd_rank):
            for target, layer in self.ours.base_model.layers():
                module = self.theirs.get_submodule(f"base_model.model.{target}")
                if name in layer.adapters and name not in module.r:
                    assert reason_in(OTHER_COMBINED_LAYERS, configs), f"PEFT combines nothing in {target}"
                elif name in layer.adapters:
                    expected = module.get_delta_weight(name).detach().numpy()
                    assert np.allclose(layer.get_delta_weight(name), expected, rtol=1e-6, atol=1e-7), (
                        f"other ΔW in {target}, of {configs}"
                    )
        self.rebuild()
