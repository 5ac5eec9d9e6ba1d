"""What LoRA really does: claims of the field, tried in small, each with its number, its interval and its verdict.

points.py       the data sets: which runs each of them has, and how long these are
family.py       the data set whose runs follow from earlier ones: LoRA's relatives, each at its own best rate
runs.py         one run of a point: train, and look at marked steps (along.py)
command.py     `python -m lora_course.verdicts NAME ...` makes data sets; they are kept here as NAME.json
data.py         reading and writing them
statistics.py   intervals, best rates, values at a matched loss
regret.py, intruders.py, starts.py, scaling.py, forgetting.py, fair_fight.py, four_bits.py   what the data sets say
capacity.py     bits that an adapter remembers; larger.py: at higher ranks, and of facts
second.py       a second scale, SmolLM2-135M
second_bits.py  4 bits there; second_rank.py: the rank of full training's update
reward.py       learning from reward, by grpo.py, of the task in words.py
page.py         the page of the book, from all of these

Notebook 13 shows the pictures and makes a few of the runs again.
"""

from .data import shipped

__all__ = ["shipped"]
