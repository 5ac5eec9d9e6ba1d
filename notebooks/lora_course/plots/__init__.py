"""The pictures of the notebooks. Each function takes numbers and returns a matplotlib Figure.

The style (colours, axes, `show`) is the library's, `lora_np.plots`.

attention.py    how much each position attends to each earlier one
bars.py         parts, one bar each or stacked
costs.py        parameters, memory, the rounding of merging, latency
runs.py         runs compared: curves, end results
subspaces.py    an update's singular values and shared directions
sweep.py        loss by rank, by size, by learning rate, against what was forgotten
timeline.py     one training step: what ran when
verdicts.py     intervals, best rates, intruders, what was forgotten for what was learnt
"""
