"""The rules: what can be done with adapters, each done on both sides; and what must hold after every one."""

import copy
import os
import tempfile
from pathlib import Path

import numpy as np
import peft
import torch
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lora_helpers import relative, some_ids
from lora_sequences import sides
from lora_sequences.differences import (
    DONE_OTHERWISE,
    OTHER_COMBINATION,
    OTHER_NUMBERS,
    REFUSED_BY_PEFT,
    REFUSED_HERE,
    reason_for,
    reason_in,
)
from lora_sequences.interruption import interrupted, lines_of
from lora_sequences.settings import FAMILIES, kind_of, lora_fields
from lora_sequences.sides import TOLERANCE, quietly
from lora_sequences.snapshots import changes, identities, parameters, snapshot

from lora_np import LoraConfig, PeftModel, get_peft_model, no_grad
from lora_np.lora.combine import KINDS, SIGN_METHODS
from lora_np.training.optim import SGD

NAMES = ["default", "b", "other", "third"]  # no part of a module's name: PEFT looks for adapters' names in those
REFUSALS = (ValueError, RuntimeError, KeyError, TypeError)
ANY = st.integers(0, 9)  # which adapter, or which folder: counted round, 9 for one that is not there
SEVERAL = st.lists(st.integers(0, 3), min_size=1, max_size=3)


def short(config):
    """A config's unusual fields."""
    usual = LoraConfig()
    fields = {name: value for name, value in vars(config).items() if value != getattr(usual, name)}
    return f"LoraConfig({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


class Sequences(RuleBasedStateMachine):
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

    def names(self, several):
        return list(dict.fromkeys(self.name(which) for which in several))

    def refused_here(self, what, action):
        """Do it here. None if it is done; if it is refused, the message, and nothing may have changed."""
        before = snapshot(self.ours), identities(self.ours)
        try:
            quietly(action)
        except REFUSALS as error:
            message = str(error.args[0]) if error.args else ""
            note(f"{what}: {type(error).__name__}: {message[:300]}")
            assert " " in message, f"no sentence: {error!r}"
            after = snapshot(self.ours), identities(self.ours)
            assert after == before, f"{what} was refused and changed the model:\n{changes(before[0], after[0])}"
            return message
        note(what)
        return None

    def both(self, what, action, their_action):
        """Do it on both sides; True if it is done here. One may refuse it and the other not where that is listed."""
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
        if their_refusal:
            self.rebuild()
        return refusal is None

    def refused_by_peft(self, action):
        try:
            quietly(action)
        except Exception as error:
            note(f"    PEFT: {type(error).__name__}: {str(error)[:300]}")
            return f"{type(error).__name__}: {error}"
        return None

    def rebuild(self):
        """Bring PEFT's model to the state of ours, or do without it where PEFT refuses that."""
        if self.ours is None or self.ours.base_model.merged or not self.ours.peft_config:
            self.theirs = None
            return
        try:
            self.theirs = quietly(lambda: sides.peft_model(self.plain, self.ours))
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            assert reason_for(REFUSED_BY_PEFT, message), f"PEFT cannot be brought here, which is not listed: {message}"
            self.theirs = None

    def otherwise(self, name, action):
        """Bring PEFT's model to the state of ours where it is known to do a thing in another way."""
        note(f"    PEFT otherwise: {DONE_OTHERWISE[name]}")
        quietly(action)

    def copy_over(self):
        """PEFT's model gets the numbers of ours."""
        if self.theirs is not None:
            sides.copy_numbers(self.ours, self.theirs)

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

    def keep_biases(self):
        """Trained biases are part of the base model from now on."""
        for module_name, module in self.ours.base_model.layers():
            bias = getattr(module.base_layer, "bias", None)
            if bias is not None:
                self.plain.arrays[f"{module_name}.bias"] = bias.data.copy()
        for name, p in self.ours.base_model.biases("all").items():
            self.plain.arrays[name.replace(".base_layer.", ".")] = p.data.copy()

    def has(self, **fields):
        return any(getattr(c, k, None) == v for c in self.ours.peft_config.values() for k, v in fields.items())

    # Making and ending

    @initialize(family=st.sampled_from(sorted(FAMILIES)), training=st.booleans())
    def begin(self, family, training):
        self.family, self.kind = family, kind_of(family)
        self.plain = sides.plain_model(family)
        self.plain.training = training
        note(f"a {family} in {'training' if training else 'evaluation'} mode")

    def config(self, data):
        """(LoraConfig, PEFT's), or None where ours refuses it and PEFT must do so too."""
        fields = data.draw(lora_fields(self.kind), label="settings")
        try:
            return quietly(lambda: LoraConfig(**fields))
        except ValueError as error:
            if not reason_for(REFUSED_HERE, str(error)):

                def their_action():
                    return peft.get_peft_model(self.plain.theirs(), peft.LoraConfig(**fields))

                assert self.refused_by_peft(their_action), f"only this library refuses {fields}: {error}"
            return None

    @precondition(lambda self: self.ours is None)
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def create(self, data, name):
        config = self.config(data)
        if config is None:
            return
        model = self.plain.ours()
        before = snapshot(model), identities(model)
        try:
            self.ours = quietly(lambda: get_peft_model(model, config, name))
        except ValueError as error:
            note(f"get_peft_model: {error}")
            assert (snapshot(model), identities(model)) == before, "a refused get_peft_model changed the model"
            if not reason_for(REFUSED_HERE, str(error)):
                made = self.refused_by_peft(lambda: peft.get_peft_model(self.plain.theirs(), sides.peft_config(config)))
                assert made, f"refused here, and PEFT does it, which is not listed: {error}"
            return
        note(f"get_peft_model({short(config)}, {name!r})")
        self.rebuild()
        self.shake(name)

    @precondition(lambda self: self.ours is not None)
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def add(self, data, name):
        config = self.config(data)
        if config is None:
            return
        action = lambda: self.ours.add_adapter(name, config)  # noqa: E731
        theirs = lambda: self.theirs.add_adapter(name, sides.peft_config(config))  # noqa: E731
        if self.both(f"add_adapter({name!r}, {short(config)})", action, theirs):
            self.shake(name)

    @precondition(lambda self: self.ours is not None)
    @rule(merge=st.booleans(), safe=st.booleans(), several=st.one_of(st.none(), SEVERAL))
    def end(self, merge, safe, several):
        """merge_and_unload, or unload."""
        names = None if several is None else self.names(several)
        expected = self.merged_logits(names) if merge else None
        ours, theirs = self.ours, self.theirs
        result = {}

        def action():
            result["ours"] = ours.merge_and_unload(safe, names) if merge else ours.unload()

        def their_action():
            end = theirs.base_model.merge_and_unload if merge else theirs.base_model.unload
            result["theirs"] = end(safe_merge=safe, adapter_names=names) if merge else end()

        if not self.both(f"merge_and_unload({safe}, {names})" if merge else "unload()", action, their_action):
            return
        plain = result["ours"]
        if merge:
            assert relative(sides.logits(plain), expected) < TOLERANCE, "unloaded, and other logits"
        else:
            assert np.array_equal(sides.logits(plain), sides.logits(self.plain.ours())), "unloaded, and not the base"
        if self.theirs is not None and "theirs" in result and merge and not reason_in(OTHER_NUMBERS, ours):
            expected = sides.logits_of_peft(result["theirs"])
            assert relative(sides.logits(plain), expected) < TOLERANCE, "PEFT's unloaded model has other logits"
        self.plain, self.ours, self.theirs, self.unmerged = sides.Plain(plain), None, None, None

    # Switching

    @precondition(lambda self: self.ours is not None)
    @rule(which=st.one_of(ANY, SEVERAL))
    def set_adapter(self, which):
        names = self.names(which) if isinstance(which, list) else [self.name(which)]
        given = names if isinstance(which, list) else names[0]
        action = lambda: self.ours.set_adapter(given)  # noqa: E731
        self.both(f"set_adapter({given!r})", action, lambda: sides.activate(self.theirs, names))

    @precondition(lambda self: self.ours is not None)
    @rule(which=ANY)
    def delete(self, which):
        name = self.name(which)
        changed = getattr(self.ours.peft_config.get(name), "changes_base", False)
        action = lambda: self.ours.delete_adapter(name)  # noqa: E731
        if self.both(f"delete_adapter({name!r})", action, lambda: self.theirs.delete_adapter(name)):
            if changed:
                self.otherwise("delete_adapter puts back what PiSSA took", self.copy_over)
            if self.theirs is not None and self.ours.peft_config and not self.theirs.active_adapters:
                names = self.ours.active_adapters
                self.otherwise("an adapter stays active", lambda: sides.activate(self.theirs, names))
            if not self.ours.peft_config:
                self.theirs = None

    @precondition(lambda self: self.ours is not None)
    @rule(which=ANY, new=st.sampled_from(NAMES))
    def rename(self, which, new):
        old = self.name(which)
        if self.refused_here(f"rename_adapter({old!r}, {new!r})", lambda: self.ours.rename_adapter(old, new)) is None:
            self.rebuild()  # PEFT has no such call

    @precondition(lambda self: self.ours is not None)
    @rule(which=ANY, scale=st.sampled_from([0.0, 0.5, 1.0, -2.0]))
    def set_scale(self, which, scale):
        name = self.name(which)
        if self.refused_here(f"set_scale({name!r}, {scale})", lambda: self.ours.set_scale(name, scale)) is None:
            self.copy_over()

    @precondition(lambda self: self.ours is not None)
    @rule(training=st.booleans())
    def mode(self, training):
        note("train()" if training else "eval()")
        self.ours.train(training)
        self.plain.training = training
        if self.theirs is not None:
            self.theirs.train(training)

    @precondition(lambda self: self.ours is not None)
    @rule(on=st.booleans())
    def checkpointing(self, on):
        """Nothing may change: the gradients are still compared with those of PEFT's model, which keeps everything."""
        note(f"gradient checkpointing {'on' if on else 'off'}")
        model = self.ours
        model.gradient_checkpointing_enable() if on else model.gradient_checkpointing_disable()

    @precondition(lambda self: self.ours is not None)
    @rule(depth=st.integers(1, 3), which=ANY)
    def disable(self, depth, which):
        """Nested blocks: the base model inside, nothing changed after; what would switch adapters is refused."""
        note(f"disable_adapter(), {depth} deep")
        before, expected = snapshot(self.ours), sides.logits(self.plain.ours())
        blocks = []
        for _ in range(depth):
            blocks.append(self.ours.disable_adapter())
            blocks[-1].__enter__()
            assert np.array_equal(sides.logits(self.ours), expected)
        for what, change in {
            "set_adapter": lambda: self.ours.set_adapter(self.name(which)),
            "delete_adapter": lambda: self.ours.delete_adapter(self.name(which)),
            "merge_adapter": lambda: self.ours.merge_adapter(),
            "unmerge_adapter": lambda: self.ours.unmerge_adapter(),
            "rename_adapter": lambda: self.ours.rename_adapter(self.name(which), "new"),
            "merge_and_unload": lambda: self.ours.merge_and_unload(),
        }.items():
            assert self.refused_here(what, change), f"{what} inside disable_adapter()"
        while blocks:
            assert np.array_equal(sides.logits(self.ours), expected)
            blocks.pop().__exit__(None, None, None)
        assert snapshot(self.ours) == before

    # Merging

    def merged_logits(self, names):
        """The logits that these adapters (None: the active or merged ones) give, computed without merging."""
        model = copy.deepcopy(self.ours)
        if self.ours.base_model.merged:
            names = self.ours.base_model.merged if names is None else names
            model.unmerge_adapter()
        if names is not None:
            try:
                model.base_model.set_adapter([name for name in names if name in model.peft_config])
            except REFUSALS:
                return None
        return sides.logits(model)

    @precondition(lambda self: self.ours is not None)
    @rule(several=st.one_of(st.none(), SEVERAL), safe=st.booleans())
    def merge(self, several, safe):
        names = None if several is None else self.names(several)
        before, state = sides.logits(self.ours), snapshot(self.ours)
        expected = self.merged_logits(names)
        action = lambda: self.ours.merge_adapter(names, safe)  # noqa: E731
        theirs = lambda: self.theirs.merge_adapter(names, safe_merge=safe)  # noqa: E731
        if self.both(f"merge_adapter({names}, {safe})", action, theirs):
            assert relative(sides.logits(self.ours), expected) < TOLERANCE, "merged, and other logits"
            if self.ours.base_model.merged:
                self.unmerged = state, before

    @precondition(lambda self: self.ours is not None)
    @rule()
    def unmerge(self):
        if not self.both(
            "unmerge_adapter()", lambda: self.ours.unmerge_adapter(), lambda: self.theirs.unmerge_adapter()
        ):
            return
        if self.unmerged:
            state, expected = self.unmerged
            after = snapshot(self.ours)
            for lines in (state, after):  # the mode may have been changed in between
                for key in [key for key in lines if isinstance(lines[key], str) and "training=" in lines[key]]:
                    lines[key] = lines[key].replace("training=True", "").replace("training=False", "")
                lines.pop("model")
            assert after == state, f"unmerged, and not as before:\n{changes(state, after)}"
            assert np.array_equal(sides.logits(self.ours), expected), "unmerged, and other logits"
        self.unmerged = None
        if self.theirs is None:
            self.rebuild()
        self.copy_over()  # PEFT subtracts what it added: the weights have drifted by a rounding

    @precondition(lambda self: self.ours is not None)
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
            self.plain.arrays["lm_head.weight"] = self.plain.arrays[embedding].copy()
        self.rebuild()

    # Computing

    @precondition(lambda self: self.ours is not None)
    @rule(rows=st.lists(st.integers(0, 4), min_size=3, max_size=3), checkpointed=st.booleans())
    def rows(self, rows, checkpointed):
        """Each row with an adapter of its own: as PEFT computes it, and as the adapter alone does."""
        names = ["__base__" if which == 4 else self.name(which) for which in rows]
        found = {}
        action = lambda: found.update(ours=sides.logits(self.ours, adapter_names=names))  # noqa: E731

        def their_action():
            with torch.no_grad():
                ids = torch.tensor(some_ids(self.ours.config, batch=3, time=6))
                found["theirs"] = self.theirs(ids, adapter_names=names).logits.numpy()

        if not self.both(f"forward with adapter_names={names}", action, their_action):
            return
        if "theirs" in found and not any(c.use_dora for c in self.ours.peft_config.values()):
            assert relative(found["ours"], found["theirs"]) < TOLERANCE, "rows: other logits than PEFT's"
        for row, name in enumerate(names):
            model = self.plain.ours() if name == "__base__" else self.alone(name)
            assert relative(found["ours"][row], sides.logits(model)[row]) < TOLERANCE, f"row {row} is not {name}'s"
        self.rows_gradients(names, checkpointed)

    def rows_gradients(self, names, checkpointed):
        """Gradients through rows are the same with and without checkpointing."""
        model = copy.deepcopy(self.ours)
        model.gradient_checkpointing_disable()
        model.requires_grad_(True)
        ids = some_ids(model.config, batch=3, time=6)
        found = []
        for _ in range(2):
            model.zero_grad()
            model(ids, labels=ids, adapter_names=names).loss.backward()
            found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
            if not checkpointed:
                return
            model.gradient_checkpointing_enable()
        assert set(found[0]) == set(found[1])
        for name in found[0]:
            assert np.allclose(*(gradients[name] for gradients in found), rtol=1e-9, atol=1e-13), name

    @precondition(lambda self: self.ours is not None and not self.ours.base_model.merged)
    @rule()
    def train_step(self):
        """p ← p - lr·g on both sides, and the same numbers afterwards."""
        trained = [p for p in self.ours.parameters() if p.requires_grad]
        if not trained:
            return
        note("a training step")
        ids = some_ids(self.ours.config, batch=3, time=6)
        self.ours(ids, labels=ids).loss.backward()
        SGD(trained, lr=0.1).step()
        self.ours.zero_grad()
        if self.theirs is not None:
            sides.their_loss(self.theirs).backward()
            torch.optim.SGD([p for p in self.theirs.parameters() if p.requires_grad], lr=0.1).step()
            if not reason_in(OTHER_NUMBERS, self.ours):
                sides.assert_same_weights(self.ours, self.theirs)
        self.keep_biases()
        self.copy_over()

    @precondition(lambda self: self.ours is not None)
    @rule(
        kind=st.sampled_from(KINDS),
        several=SEVERAL,
        weights=st.lists(st.sampled_from([1.0, 0.5, -0.7, 0.0, 2.0]), min_size=3, max_size=3),
        svd_rank=st.one_of(st.none(), st.integers(1, 6)),
        density=st.one_of(st.none(), st.sampled_from([0.3, 0.7, 1.0])),
        method=st.sampled_from(SIGN_METHODS),
        name=st.sampled_from(NAMES),
    )
    def combine(self, kind, several, weights, svd_rank, density, method, name):
        """add_weighted_adapter: the same ΔW in every layer, and from then on the same numbers."""
        names = self.names(several)
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
        if not reason_in(OTHER_COMBINATION, kind, self.ours, names, weights):
            for target, layer in self.ours.base_model.layers():
                if name in layer.adapters:
                    module = self.theirs.get_submodule(f"base_model.model.{target}")
                    expected = module.get_delta_weight(name).detach().numpy()
                    assert np.allclose(layer.get_delta_weight(name), expected, rtol=1e-6, atol=1e-7), (
                        f"other ΔW in {target}, of {configs}"
                    )
        self.rebuild()

    # Files

    @precondition(lambda self: self.ours is not None)
    @rule(which=ANY, as_plain_lora=st.booleans())
    def save(self, which, as_plain_lora):
        """What is saved here comes back bit for bit, here; and PEFT computes the same with it."""
        name, folder = self.name(which), Path(self.temporary.name) / f"ours{len(self.folders)}"
        action = lambda: self.ours.save_pretrained(folder, [name], as_plain_lora)  # noqa: E731
        if self.refused_here(f"save_pretrained(..., [{name!r}], {as_plain_lora})", action) is not None:
            return
        folder = folder if name == "default" else folder / name
        self.folders.append((folder, self.kind))
        expected = sides.logits(self.alone(name))
        back = quietly(lambda: PeftModel.from_pretrained(self.plain.ours(), folder))
        exact = not self.ours.peft_config[name].changes_base and self.unscaled(name)
        if exact:
            assert np.array_equal(sides.logits(back), expected), "saved and loaded, and other logits"
        elif self.unscaled(name):
            assert relative(sides.logits(back), expected) < TOLERANCE, "saved and loaded, and other logits"
        self.load_in_peft(folder, sides.logits(back), back)

    def unscaled(self, name):
        """Is the adapter's scaling the configured one? A file holds no other."""
        adapters = self.ours.base_model.adapter(name).adapters.values()
        return all(
            a.scaling == a.config.scaling_of(a.r, a.lora_alpha) for a in adapters if hasattr(a.config, "scaling_of")
        )

    def load_in_peft(self, folder, expected, back):
        twin = {}

        def load():
            twin["model"] = peft.PeftModel.from_pretrained(self.plain.theirs(), folder)

        refusal = self.refused_by_peft(load)
        if refusal:
            assert reason_for(REFUSED_BY_PEFT, refusal), f"PEFT does not load what was saved here: {refusal}"
        elif not reason_in(OTHER_NUMBERS, back):
            tolerance = 1e-5 if back.peft_config["default"].changes_base else TOLERANCE  # PEFT's SVD is in float32
            found = sides.logits_of_peft(twin["model"])
            assert relative(expected, found) < tolerance, "PEFT computes something else with what was saved here"

    @precondition(lambda self: self.theirs is not None and not self.ours.base_model.merged)
    @rule(which=st.integers(0, 8))
    def save_theirs(self, which):
        """What PEFT saves is loaded here, and computes the same."""
        name, folder = self.name(which), Path(self.temporary.name) / f"theirs{len(self.folders)}"
        if self.ours.peft_config[name].changes_base:
            return
        note(f"PEFT saves {name!r}")
        quietly(lambda: self.theirs.save_pretrained(folder, selected_adapters=[name]))
        folder = folder if name == "default" else folder / name
        back = {}
        refusal = self.refusal_to_load(folder, back)
        if refusal:
            assert reason_for(REFUSED_HERE, refusal), f"PEFT's file is refused here, which is not listed: {refusal}"
            return
        self.folders.append((folder, self.kind))
        if self.unscaled(name):
            assert relative(sides.logits(back["model"]), sides.logits(self.alone(name))) < TOLERANCE

    def refusal_to_load(self, folder, back):
        model = self.plain.ours()
        before = snapshot(model), identities(model)
        try:
            back["model"] = quietly(lambda: PeftModel.from_pretrained(model, folder))
        except REFUSALS as error:
            assert (snapshot(model), identities(model)) == before, "a refused file changed the model"
            return str(error)
        return None

    @precondition(lambda self: self.ours is not None and self.folders)
    @rule(which=st.integers(0, 8), name=st.sampled_from(NAMES), trainable=st.booleans())
    def load(self, which, name, trainable):
        """load_adapter on both sides, which then hold the same numbers."""
        folder, _ = self.folders[which % len(self.folders)]
        action = lambda: self.ours.load_adapter(folder, name, trainable)  # noqa: E731
        theirs = lambda: self.theirs.load_adapter(folder, name, trainable)  # noqa: E731
        if not self.both(f"load_adapter({folder.name!r}, {name!r}, {trainable})", action, theirs):
            return
        if self.theirs is not None:
            if not self.ours.peft_config[name].changes_base:
                sides.assert_same_weights(self.ours, self.theirs)
            if trainable:
                freeze = lambda: self.theirs.base_model.set_requires_grad(name, name in self.ours.active_adapters)  # noqa: E731
                self.otherwise("an inactive adapter is frozen", freeze)
            self.otherwise("loading leaves the mode", lambda: self.theirs.train(self.ours.training))
        self.keep_biases()
        self.copy_over()

    # An exception anywhere

    @precondition(lambda self: self.ours is not None and os.environ.get("LORA_NP_INTERRUPT"))
    @rule(data=st.data(), part=st.floats(0, 1), memory=st.booleans(), which=ANY, several=SEVERAL)
    def interrupt(self, data, part, memory, which, several):
        """An exception at any line of an operation leaves the model as it was, or as it is to be."""
        name, names = self.name(which), self.names(several)
        operations = {
            "merge_adapter": lambda model: model.merge_adapter(names),
            "unmerge_adapter": lambda model: model.unmerge_adapter(),
            "set_adapter": lambda model: model.set_adapter(names),
            "delete_adapter": lambda model: model.delete_adapter(name),
            "rename_adapter": lambda model: model.rename_adapter(name, "renamed"),
            "set_scale": lambda model: model.set_scale(name, 3.0),
            "untie_weights": lambda model: model.untie_weights(),
            "add_weighted_adapter": lambda model: model.add_weighted_adapter([name], [1.0], "combined", "cat"),
            "merge_and_unload": lambda model: model.merge_and_unload(),
            "unload": lambda model: model.unload(),
            "forward": sides.logits,
            "disable_adapter": sides.disabled_logits,
            "gradients": sides.gradients_of_copy,
        }
        if self.folders:
            folder = self.folders[which % len(self.folders)][0]
            operations["load_adapter"] = lambda model: model.load_adapter(folder, "loaded")
        what = data.draw(st.sampled_from(sorted(operations)), label="operation")
        sides.interrupt(self.ours, operations[what], what, part, KeyboardInterrupt if not memory else MemoryError)

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
            assert np.array_equal(sides.logits(self.ours), sides.logits(self.plain.ours())), "disabled is not the base"
        assert snapshot(self.ours) == before
