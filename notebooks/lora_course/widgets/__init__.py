"""Pictures that answer the hand: plain JavaScript over results that Python computed.

Each function returns an object that a cell's last line shows: in Jupyter, in exported pages and in the book; a table
stands in its place where no script runs. Nothing is fetched. `python -m lora_course.widgets` writes a page of all six.

widget.py     the HTML around data, script (core.js and one file each) and style
memory.py     what one training step needs           rates.py    learning rate by rank, each cell with its runs
attention.py  what a head looks at, letter by letter walk.py     a backward, one node after another
rank.py       a real ΔW cut to rank k, with its loss  mixing.py   an adapter at a part of its weight
"""

from .attention import attention_view
from .memory import memory_calculator
from .mixing import mixing_slider
from .rank import rank_slider
from .rates import rate_map
from .walk import gradient_walk

__all__ = ["attention_view", "gradient_walk", "memory_calculator", "mixing_slider", "rank_slider", "rate_map"]
