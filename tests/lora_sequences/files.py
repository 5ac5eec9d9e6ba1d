"""Rules that save and load, both ways."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import peft
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from lora_helpers import relative

from lora_np import PeftModel
from lora_sequences import sides
from lora_sequences.differences import OTHER_NUMBERS, REFUSED_BY_PEFT, REFUSED_HERE, reason_for, reason_in
from lora_sequences.sides import TOLERANCE, attempt, quietly
from lora_sequences.snapshots import identities, snapshot
from lora_sequences.workbench import ANY, REFUSALS, Workbench, with_adapters

PATTERNS = ("rank_pattern", "alpha_pattern")


class Files(Workbench):
    @with_adapters
    @rule(which=ANY, as_plain_lora=st.booleans())
    def save(self, which, as_plain_lora):
        """What is saved here comes back bit for bit, here; and PEFT computes the same with it."""
        name, folder = self.name(which), Path(self.temporary.name) / f"ours{len(self.folders)}"
        chosen = {"selected_adapters": [name], "as_plain_lora": as_plain_lora}
        action = lambda: self.ours.save_pretrained(folder, **chosen)  # noqa: E731
        refusal = self.refused_here(f"save_pretrained(..., {chosen})", action)
        if refusal is not None:
            known = name not in self.ours.peft_config or reason_for(REFUSED_HERE, refusal)
            assert known, f"not saved, which is not listed: {refusal}"
            return
        folder = folder if name == "default" else folder / name
        self.folders.append(folder)
        expected = sides.logits(self.alone(name))
        back = quietly(lambda: PeftModel.from_pretrained(self.plain.ours(), folder))
        config = self.ours.peft_config[name]
        if self.others_change_base(name) or not self.unscaled(name):
            pass  # no file says this
        elif not config.changes_base:
            assert np.array_equal(sides.logits(back), expected), "saved and loaded, and other logits"
        else:
            assert relative(sides.logits(back), expected) < TOLERANCE, "saved and loaded, and other logits"
        self.load_in_peft(folder, sides.logits(back), back)

    def others_change_base(self, name):
        """Has another adapter taken a part out of the base? No file says this of another adapter."""
        return any(c.changes_base for n, c in self.ours.peft_config.items() if n != name)

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
        if self.sorted_otherwise(name):
            self.otherwise("entries keep their order", lambda: self.put_in_order(folder, name))
        back = {}
        refusal = self.refusal_to_load(folder, back)
        if refusal:
            assert reason_for(REFUSED_HERE, refusal), f"PEFT's file is refused here, which is not listed: {refusal}"
            return
        self.folders.append(folder)
        if self.unscaled(name) and not self.others_change_base(name):
            assert relative(sides.logits(back["model"]), sides.logits(self.alone(name))) < TOLERANCE

    def sorted_otherwise(self, name):
        """Would a layer get another rank or alpha if the entries of the patterns were sorted?"""
        config = self.ours.peft_config[name]
        patterns = {field: dict(sorted(getattr(config, field).items())) for field in PATTERNS}
        other = dataclasses.replace(config, **patterns)
        targets = self.ours.base_model.adapter(name).adapters
        return any(other.rank_and_alpha(target) != config.rank_and_alpha(target) for target in targets)

    def put_in_order(self, folder, name):
        """The entries of the patterns in the file, as they are in memory."""
        path = folder / "adapter_config.json"
        fields = {field: getattr(self.ours.peft_config[name], field) for field in PATTERNS}
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    def refusal_to_load(self, folder, back):
        model = self.plain.ours()
        before = snapshot(model), identities(model)
        back["model"], error = attempt(lambda: PeftModel.from_pretrained(model, folder), REFUSALS)
        unchanged = (snapshot(model), identities(model)) == before
        assert error is None or unchanged, "a refused file changed the model"
        return error and str(error)

    @precondition(lambda self: self.ours is not None and self.folders)
    @rule(which=st.integers(0, 8), new=ANY, trainable=st.booleans())
    def load(self, which, new, trainable):
        """load_adapter on both sides, which then hold the same numbers."""
        name = self.new_name(new)
        folder, again = self.folders[which % len(self.folders)], name in self.ours.peft_config
        action = lambda: self.ours.load_adapter(folder, name, trainable)  # noqa: E731
        theirs = lambda: self.theirs.load_adapter(folder, name, trainable)  # noqa: E731
        if not self.both(f"load_adapter({folder.name!r}, {name!r}, {trainable})", action, theirs):
            return
        if self.theirs is not None:
            if not self.ours.peft_config[name].changes_base:
                sides.assert_same_weights(self.ours, self.theirs)
            if trainable and not again:
                freeze = lambda: self.theirs.base_model.set_requires_grad(name, name in self.ours.active_adapters)  # noqa: E731
                self.otherwise("an inactive adapter is frozen", freeze)
            self.otherwise("loading leaves the mode", lambda: self.theirs.train(self.ours.training))
        self.keep_biases()
        self.keep_bases(name)
        self.copy_over()
