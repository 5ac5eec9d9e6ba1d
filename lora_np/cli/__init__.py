"""The command line, `lora-np` or `python -m lora_np`: one file per command.

main.py lists the commands and runs one. Each command's file has NAME, HELP, DESCRIPTION, `add_arguments(parser)` and
`run(options) -> exit status`. Without a command the main job runs, finetune.py, with its parts beside it: options.py
(what can be chosen), task.py (what is learnt from and measured on), output.py (where results go), report.py (what is
said about the run). parser.py understands near misses, waiting.py tells what takes long; arguments.py, model.py and
writing.py have what several commands share.
"""

from .main import build_parser, main

__all__ = ["build_parser", "main"]
