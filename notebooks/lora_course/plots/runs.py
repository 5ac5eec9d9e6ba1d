"""Pictures that compare runs: curves with bands over seeds, and end results side by side."""

import numpy as np

from lora_np.plots import BLUE, CYCLE, GREY, MARKERS, new_figure

PANEL = 4.8  # inches: two of them side by side are read without shrinking


def loss_curves(runs, title, unit="nats per byte"):
    """A figure with a panel for each held-out text: the loss at each evaluation, a line for each kind of run.

    runs: {label: [history, ...]}, one history (as `training.train` returns it) for each seed. With several seeds the
    line is their mean and a band goes from the lowest to the highest. ValueError if there is no run, or if the seeds
    of a label were evaluated at different steps.
    """
    _check(runs)
    texts = [name for name in next(iter(runs.values()))[0]["evaluation"][0] if name != "step"]
    figure, axes = new_figure(columns=len(texts), width=PANEL, height=4.2)
    for ax, text in zip(axes, texts, strict=True):
        for i, (label, histories) in enumerate(runs.items()):
            steps, losses = _evaluations(label, histories, text)
            colour = CYCLE[i % len(CYCLE)]
            ax.plot(steps, losses.mean(axis=0), color=colour, marker=MARKERS[i % len(MARKERS)], label=label)
            if len(losses) > 1:
                ax.fill_between(steps, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        ax.set(title=f"{text}, held out", xlabel="optimizer step", ylabel=f"loss ({unit})")
        ax.locator_params(axis="x", integer=True)
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    return figure


def compare_methods(results, title, base=None, unit="nats per byte"):
    """A figure with a panel for each text and a row for each method: a small dot for each seed, a bar at their mean.

    results: {method: {text: [loss of each seed]}}. base: {text: loss before training}, a dashed line with its
    name below the panels, where no data is.
    ValueError if there is no result.
    """
    _check(results)
    texts, methods = list(next(iter(results.values()))), list(results)
    figure, axes = new_figure(columns=len(texts), width=PANEL, height=1.6 + 0.36 * len(methods))
    for ax, text in zip(axes, texts, strict=True):
        for row, method in enumerate(methods):
            losses = results[method][text]
            ax.scatter(losses, [row] * len(losses), color=BLUE, s=26, alpha=0.75, zorder=3)
            ax.plot([np.mean(losses)] * 2, [row - 0.3, row + 0.3], color=BLUE, linewidth=2)
        if base:
            ax.axvline(base[text], color=GREY, linestyle="--", label="base model")
        ax.set(title=f"{text}, held out", xlabel=f"loss ({unit}); lower is better")
        ax.set_yticks(range(len(methods)), methods if ax is axes[0] else [])
        ax.invert_yaxis()
    if base:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    figure.suptitle(title)
    return figure


def _check(runs):
    if not runs:
        raise ValueError("there is nothing to draw")


def _evaluations(label, histories, text):
    """(steps (n,), losses (seeds, n)) of one text."""
    steps = [[evaluation["step"] for evaluation in history["evaluation"]] for history in histories]
    if any(own != steps[0] for own in steps):
        raise ValueError(f"the runs of {label!r} were evaluated at different steps: their mean would be of no step")
    losses = [[evaluation[text] for evaluation in history["evaluation"]] for history in histories]
    return np.array(steps[0]), np.array(losses)
