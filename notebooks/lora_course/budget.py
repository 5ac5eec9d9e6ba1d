"""How much a notebook computes."""

import os

VARIABLE = "LORA_NP_BUDGET"
BANNER = f"{VARIABLE}=small: every run is far too short to learn anything. The figures below mean nothing."

_told = []  # the banner, once it has been shown


def budget(full, small):
    """`full`, or `small` where the environment variable LORA_NP_BUDGET is "small", as in the automatic tests.

    The first call with a small budget prints a line: figures of such runs mean nothing. ValueError for any other value
    of the variable than "full" and "small".
    """
    asked = os.environ.get(VARIABLE, "full")
    if asked not in ("full", "small"):
        raise ValueError(f'{VARIABLE} must be "full" or "small", got {asked!r}')
    if asked == "full":
        return full
    if not _told:
        _told.append(BANNER)
        print(BANNER)
    return small
