"""What an adapter costs, counted."""

import re
from collections import defaultdict


def parameter_table(peft_model):
    """[(part, layers, frozen, trained)]: parameter counts by part of the model, equal layers of all blocks together.

    A part is a dotted name with block numbers replaced by "*"; an adapter counts where its layer stands. Shared
    parameters count once.
    """
    frozen, trained, layers = defaultdict(int), defaultdict(int), defaultdict(set)
    for name, p in peft_model.named_parameters():
        module = name.removeprefix("base_model.model.").rpartition(".")[0]
        module = re.sub(r"\.(base_layer|lora_[AB]\.\w+)$", "", module)
        part = re.sub(r"\.\d+(?=\.|$)", ".*", module)
        layers[part].add(module)
        (trained if p.requires_grad else frozen)[part] += p.size
    return [(part, len(found), frozen[part], trained[part]) for part, found in layers.items()]


def format_parameter_table(peft_model):
    """`parameter_table` as text to print, with a line of totals."""
    rows = parameter_table(peft_model)
    rows.append(("all", "", sum(row[2] for row in rows), sum(row[3] for row in rows)))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'part':<{width}}  layers {'frozen':>12} {'trained':>12}"]
    for part, count, frozen, trained in rows:
        numbers = (f"{n:,}" if n else "-" for n in (frozen, trained))
        lines.append(f"{part:<{width}}  {count:>6} " + " ".join(f"{text:>12}" for text in numbers))
    return "\n".join(lines)
