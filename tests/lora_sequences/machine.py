"""All rules together, and the one that interrupts them."""

import os

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from lora_sequences import sides
from lora_sequences.adapters import Adapters
from lora_sequences.calls import Calls
from lora_sequences.files import Files
from lora_sequences.interruption import check_interrupted
from lora_sequences.workbench import ANY, SEVERAL

INTERRUPT = os.environ.get("LORA_NP_SEQUENCES_INTERRUPT", "1") != "0"  # exceptions at random lines, too


class Sequences(Adapters, Calls, Files):
    """A Hypothesis state machine: any sequence of operations on adapters, here and in PEFT."""

    @precondition(lambda self: INTERRUPT and self.ours is not None)
    @rule(data=st.data(), part=st.floats(0, 1), memory=st.booleans(), which=ANY, several=SEVERAL)
    def interrupt(self, data, part, memory, which, several):
        """An exception at any line of an operation leaves the model as it was, or as the operation leaves it."""
        what = data.draw(st.sampled_from(sorted(self.operations(which, several))), label="operation")
        kind = MemoryError if memory else KeyboardInterrupt
        check_interrupted(self.ours, what, self.operations(which, several)[what], part, kind)

    def operations(self, which, several):
        """{what: a function of a PeftModel that does it}."""
        name, names = self.name(which), self.names(several)
        found = {
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
            "backward": sides.gradients,
        }
        if self.folders:
            folder = self.folders[which % len(self.folders)]
            found["load_adapter"] = lambda model: model.load_adapter(folder, "loaded")
        return found
