"""Rules that call the model: modes, disabled, merged, row by row, and a training step."""

import copy

import numpy as np
import torch
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from lora_helpers import relative, some_ids

from lora_np.training.optim import SGD
from lora_sequences import sides
from lora_sequences.differences import OTHER_NUMBERS, reason_in
from lora_sequences.sides import TOLERANCE
from lora_sequences.snapshots import changes, snapshot
from lora_sequences.workbench import ANY, SEVERAL, Workbench, with_adapters


class Calls(Workbench):
    @with_adapters
    @rule(training=st.booleans())
    def mode(self, training):
        note("train()" if training else "eval()")
        self.ours.train(training)
        self.plain.training = training
        if self.theirs is not None:
            self.theirs.train(training)

    @with_adapters
    @rule(on=st.booleans())
    def checkpointing(self, on):
        """Nothing may change: the gradients are still compared with those of PEFT's model, which keeps everything."""
        note(f"gradient checkpointing {'on' if on else 'off'}")
        model = self.ours
        model.gradient_checkpointing_enable() if on else model.gradient_checkpointing_disable()

    @with_adapters
    @rule(depth=st.integers(1, 3), which=ANY)
    def disable(self, depth, which):
        """Nested blocks: the base model inside, nothing changed after; what would switch adapters is refused."""
        note(f"disable_adapter(), {depth} deep")
        before, expected = snapshot(self.ours), self.plain.logits()
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

    @with_adapters
    @rule(several=st.one_of(st.none(), SEVERAL), safe=st.booleans())
    def merge(self, several, safe):
        names = None if several is None else self.names(several)
        before, state = sides.logits(self.ours), snapshot(self.ours)
        expected = self.merged_logits(names, unloading=False)
        action = lambda: self.ours.merge_adapter(names, safe)  # noqa: E731
        theirs = lambda: self.theirs.merge_adapter(names, safe_merge=safe)  # noqa: E731
        if self.both(f"merge_adapter({names}, {safe})", action, theirs):
            assert relative(sides.logits(self.ours), expected) < TOLERANCE, "merged, and other logits"
            if self.ours.base_model.merged:
                self.unmerged = state, before

    @with_adapters
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

    @with_adapters
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
