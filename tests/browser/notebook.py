"""Run under Pyodide: the cells of notebook.ipynb one after the other, in IPython, with the small budget."""

import json
import os
import sys
import time

from IPython.core.interactiveshell import InteractiveShell

os.environ |= {"LORA_NP_BUDGET": "small", "LORA_NP_CONFIRM": "1"}
shell = InteractiveShell.instance(colors="NoColor")
with open("notebook.ipynb", encoding="utf-8") as file:
    cells = json.load(file)["cells"]
began = time.perf_counter()
for number, cell in enumerate(cells):
    if cell["cell_type"] == "code" and not shell.run_cell("".join(cell["source"]), store_history=False).success:
        raise RuntimeError(f"cell {number} fails: {sys.last_value!r}")
print(f"\nall cells ran in {time.perf_counter() - began:.0f} s")
