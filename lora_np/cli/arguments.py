"""What the help of several commands shares."""

import argparse
import re
from collections.abc import Sequence

DTYPE = "what the base's weights are stored in: fp32, bf16 or fp16 (bf16 needs ml_dtypes); adapters are in fp32"
BASE = "a shipped or fetched model's name, a directory, a .gguf file, or a name on the Hugging Face hub"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not where there is none to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False) or isinstance(action.default, list) or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def target_modules(given: str | Sequence[str]) -> str | tuple[str, ...]:
    """What `--target-modules` means: names, as a tuple, or one string: "all-linear" or a regular expression.

    given: the default, a string that stays as it is, or the list of what stands on the command line. Names may also
    have commas between them.
    """
    if isinstance(given, str):
        return given
    if all(re.fullmatch(r"[\w.,]+", text) for text in given):
        given = [name for text in given for name in text.split(",") if name]
    return given[0] if len(given) == 1 and not re.fullmatch(r"[\w.]+", given[0]) else tuple(given)
