"""Pictures of training: loss curves, and losses before and after."""

from .style import BLUE, GREEN, GREY, ORANGE, new_figure


def training_curves(history, title, unit="nats per byte"):
    """A figure of one run: the training loss with the held-out losses at each evaluation, and before against after."""
    figure, (curves, bars) = new_figure(columns=2, width=5.2)
    steps = range(1, len(history["loss"]) + 1)
    curves.plot(steps, history["loss"], color=GREY, linewidth=0.8, label="training batches")
    evaluations = history["evaluation"]
    names = [name for name in evaluations[0] if name != "step"]
    colours = (BLUE, ORANGE, GREEN)
    for name, colour, marker in zip(names, colours, "osD", strict=False):
        at = [e["step"] for e in evaluations]
        curves.plot(at, [e[name] for e in evaluations], color=colour, marker=marker, label=f"{name}, held out")
    curves.set(title=title, xlabel="optimizer step", ylabel=f"loss ({unit})")
    curves.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    for i, (name, colour) in enumerate(zip(names, colours, strict=False)):
        values = [evaluations[0][name], evaluations[-1][name]]
        drawn = bars.bar([i - 0.2, i + 0.2], values, width=0.36, color=[GREY, colour])
        bars.bar_label(drawn, fmt="%.3f", padding=2)
    bars.set_xticks(range(len(names)), [f"{name}\nbase | with adapter" for name in names])
    bars.set(title="Held-out loss before and after", ylabel=f"loss ({unit})")
    bars.grid(axis="x", visible=False)
    bars.set_axisbelow(True)
    bars.margins(y=0.12)
    return figure
