"""The parser of the command line: what is meant by near misses, and mistakes in one line."""

import argparse
import difflib
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

# {what users of other tools type: the option of `finetune` that does it}; an underscore counts as a hyphen
MEANT = {
    "--lr": "--learning-rate",
    "--max-steps": "--steps",
    "--num-train-epochs": "--epochs",
    "--per-device-train-batch-size": "--batch-size",
    "--max-seq-length": "--max-length",
    "--model": "--base",
    "--model-name-or-path": "--base",
    "--output-dir": "--out",
    "--output": "--out",
    "--train-file": "--data",
    "--dataset": "--data",
    "--file": "--data",
    "--r": "--rank",
    "--lora-r": "--rank",
    "--lora-alpha": "--alpha",
    "--lora-dropout": "--dropout",
    "--peft-model": "--adapter",
    "--lora": "--adapter",
    "--load-best-model-at-end": "--load-best",
    "--max-tokens": "--max-new-tokens",
}


class Parser(argparse.ArgumentParser):
    """Understands what `MEANT` lists, where the command has the option. A mistake is one line, with the nearest option
    or command, and status 2."""

    given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if args is not None:
            end = args.index("--") if "--" in args else len(args)  # what comes behind it are no options
            self.given = [self._meant(word) for word in args[:end]]
            args = [*self.given, *args[end:]]
        return super().parse_known_args(args, namespace)

    def _meant(self, word: str) -> str:
        """The word, or the option that it means."""
        name, equals, value = word.partition("=")
        known = self._option_string_actions
        if not name.startswith("--") or name in known:
            return word
        name = name.replace("_", "-")
        meant = MEANT.get(name, name)
        return meant + equals + value if meant in known else word

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"lora-np: {message}{self._nearest(message)} (see  {self.prog} --help)\n")

    def _nearest(self, message: str) -> str:
        """ "; did you mean ...?" if the mistake is close to an option or a command."""
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            known = re.findall(r"[\w-]+", choice[2])
            if os.path.exists(choice[1]) and "finetune" in known:
                return f"; did you mean  lora-np finetune {choice[1]}?"
            return _hint([choice[1]], known)
        known = list(self._option_string_actions)
        words = [word.partition("=")[0] for word in self.given if word.startswith("--")]
        return _hint([word for word in words if not any(name.startswith(word) for name in known)], known)


def _hint(wrong: Sequence[str], known: Sequence[str]) -> str:
    """ "; did you mean ...?" for the first of the wrong words that is close to a known one, or to one of `MEANT`."""
    others = {name: meant for name, meant in MEANT.items() if meant in known}
    for word in wrong:
        if close := difflib.get_close_matches(word, [*known, *others], n=1):
            return f"; did you mean {others.get(close[0], close[0])}?"
    return ""


def seed(text: str) -> int:
    """A seed as argparse reads it: a whole number from 0 on."""
    if not re.fullmatch(r"\+?\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"a seed is a whole number from 0 on, not {text!r}")
    return int(text)


def check_paths(options: argparse.Namespace) -> None:
    """ValueError if an option has a zero byte, which no name of a file can have, or is an empty name."""
    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            if text == "" and name not in ("prompt", "stop"):
                raise ValueError(f"--{name.replace('_', '-')} '' names nothing: leave it out, or give a name")
            if isinstance(text, str) and "\0" in text and name != "prompt":
                raise ValueError(f"--{name.replace('_', '-')} {text!r} has a zero byte in it, which no name can have")
