"""What the text of a notebook says about its numbers, checked where somebody asks for it."""

import os

VARIABLE = "LORA_NP_CONFIRM"


def confirm(condition, what):
    """Nothing, if the condition holds; else a line, "differs from the text: what".

    A reader who changes a cell gets another result than the text tells, and is not stopped. Where the environment has
    LORA_NP_CONFIRM=1, as the automatic tests do, it is an AssertionError.
    """
    if condition:
        return
    message = f"differs from the text: {what}"
    if os.environ.get(VARIABLE) == "1":
        raise AssertionError(message)
    print(message)
