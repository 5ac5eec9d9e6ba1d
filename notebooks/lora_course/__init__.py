"""What the notebooks share: the size of their runs, the experiment that several of them make, pictures and exercises.

budget.py       how much a notebook computes: `LORA_NP_BUDGET=small` for a quick look
confirm.py      what the text says of the numbers: checked in automatic runs, and no reader is stopped
engine.py       the array engine that notebook 02 builds
transformer.py  the GPT of notebook 03 on that engine, its loss and its optimizer
lora_linear.py  the LoRA layer that notebook 04 builds on it
capitals.py     the running example: a model learns to write CAPITALS
adaptation.py   from Python source to English prose: the same task for every method that is compared
sweep.py        the rank sweep that notebooks 05 and 06 show: `python -m lora_course.sweep`
timeline.py     one training step taken apart: which operation began and ended when
gpu.py          CPU and GPU side by side, for notebook 11: `python -m lora_course.gpu`
tiles.py        attention without the matrix of scores, in NumPy
flash.py        the same as a kernel, flash_attention.cu; its speed: `python -m lora_course.flash_times`
verdicts/       claims of the field, tried in small: `python -m lora_course.verdicts`, for notebook 13
device.py       the device that a notebook runs on: its name, and the time of its work
plots/          the notebooks' pictures
drawings/       the drawings that each notebook opens with, as SVG: `python -m lora_course.drawings`
widgets/        pictures that answer the hand: sliders, a calculator, a map of runs; `python -m lora_course.widgets`
book/           the course as a site: `python -m lora_course.book`
lite.py         the notebooks in the browser, by JupyterLite: `python -m lora_course.lite`
pyodide.py      what that site takes of Pyodide
npm.py          files of packages from npm, for the site
exercises/      the checks of the exercises, and the reference solutions they fall back on
"""

from .adaptation import Adaptation, Outcome
from .budget import budget
from .confirm import confirm

__all__ = ["Adaptation", "Outcome", "budget", "confirm"]
