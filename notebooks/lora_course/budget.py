"""How much a notebook computes."""

import os

VARIABLE = "LORA_NP_BUDGET"


def budget(full, small):
    """`full`, or `small` where the environment variable LORA_NP_BUDGET is "small", as in the automatic tests.

    ValueError for any other value of the variable than "full" and "small".
    """
    asked = os.environ.get(VARIABLE, "full")
    if asked not in ("full", "small"):
        raise ValueError(f'{VARIABLE} must be "full" or "small", got {asked!r}')
    return full if asked == "full" else small
