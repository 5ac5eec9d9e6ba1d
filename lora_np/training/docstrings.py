"""A task that comes with every Python: write the first line of a function's docstring.

The standard library has thousands of functions whose authors wrote one. Each becomes an example: the function without
its docstring is the question, the docstring's first line the answer.
"""

import ast
import re
import warnings
from os import PathLike

from .data import python_documents
from .protocols import Example

INSTRUCTION = "Write the first line of the docstring of this Python function."
MOST_LINES, MOST_CHARACTERS = 60, 2000
SHORTEST_ANSWER, LONGEST_ANSWER = 15, 120

Function = ast.FunctionDef | ast.AsyncFunctionDef


def docstring_examples(root: str | PathLike[str] | None = None) -> list[Example]:
    """[{"messages": [user, assistant], "group": relative path}]: one for each documented function under `root`.

    root: a folder of Python files, by default the standard library; see `python_documents` for what is left out of it,
    and for its errors. In the order of the files and of the functions in them. Left out are long functions, docstrings
    whose first line does not stand for itself (`_first_line`), and first lines that came before, word for word.
    The group keeps the functions of a file on one side of `split_examples`.
    """
    examples, seen = [], set()
    for name, source in python_documents(root).items():
        lines = source.split("\n")
        for function in _documented_functions(source):
            answer, code = _first_line(function), _without_docstring(function, lines)
            if answer and code and answer not in seen:
                seen.add(answer)
                question = f"{INSTRUCTION}\n\n```python\n{code}\n```"
                messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                examples.append({"messages": messages, "group": name})
    return examples


def _documented_functions(source: str) -> list[Function]:
    """The functions of a module that have a docstring and a body besides, from top to bottom."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in strings: not our code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):  # a file for another Python, or none at all
        return []
    found = [node for node in ast.walk(tree) if isinstance(node, Function) and len(node.body) > 1]
    return sorted((node for node in found if ast.get_docstring(node)), key=lambda node: node.lineno)


def _first_line(function: Function) -> str | None:
    """The first line of the docstring, or None if it is no answer to learn from.

    That is: very short or long, one word, half a sentence that goes on in the next line, or a call of the function.
    """
    line, _, rest = (ast.get_docstring(function) or "").strip().partition("\n")
    line, next_line = line.strip(), rest.partition("\n")[0].strip()
    usual = SHORTEST_ANSWER <= len(line) <= LONGEST_ANSWER and " " in line and not next_line
    return line if usual and not re.match(rf"[\w.]*\b{function.name}\(", line) else None


def _without_docstring(function: Function, lines: list[str]) -> str | None:
    """The function's lines without its docstring, moved to the left margin; None if it is too long.

    None also where the docstring shares a line with code, which would have to be taken apart.
    """
    docstring, start = function.body[0], min(node.lineno for node in (function, *function.decorator_list))
    end = docstring.end_lineno or docstring.lineno  # after parsing it is always there; the type allows for None
    before, after = lines[start - 1 : docstring.lineno - 1], lines[end : function.end_lineno]
    shared = function.body[1].lineno <= end
    while after and not after[0].strip():
        after = after[1:]
    indent = function.col_offset
    moved = [line[indent:] if not line[:indent].strip() else line for line in (*before, *after)]
    code = "\n".join(line.rstrip() for line in moved)
    return code if not shared and len(moved) <= MOST_LINES and len(code) <= MOST_CHARACTERS else None
