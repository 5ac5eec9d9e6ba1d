"""Random sequences of what can be done with adapters, with PEFT beside it. `tests/lora/test_sequences.py` runs them.

settings.py      random models and LoraConfigs
snapshots.py     all that can be seen of a model, to compare before and after
sides.py         this library's model and PEFT's, side by side: how each is brought to a state, what must be equal
differences.py   where they differ on purpose, each with its reason; any other difference is a failure
workbench.py     what the rules are written with, and what must hold after each
adapters.py, calls.py, files.py   the rules
interruption.py  an exception at a chosen line
machine.py       all together
"""
