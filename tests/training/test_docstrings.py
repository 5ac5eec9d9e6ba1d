"""Functions and the first lines of their docstrings: what becomes an example, and that nothing of the answer leaks."""

import ast
import re

import pytest

from lora_np.training import docstring_examples
from lora_np.training.data import python_documents
from lora_np.training.docstrings import INSTRUCTION

SOURCE = '''
import functools


@functools.cache
def add(a, b):
    """Return the sum of a and b.

    More about it.
    """

    # the sum
    return a + b


class Box:
    """A class is not asked about."""

    async def open(self):
        r"""Open the box \\and wait."""
        def inside(x):
            """Look at what is inside."""
            return x
        return inside
\f
    def text(self):
        "Text that is not indented."
        return """
flush left
"""
'''
LEFT_OUT = {
    "no docstring": "def f(x):\n    return x",
    "no body": 'def f(x):\n    """Return nothing at all."""',
    "on the line of the def": 'def f(x): "Return nothing at all."; return 1',
    "followed by code": 'def f(x):\n    "Return nothing at all."; y = 1\n    return y',
    "short": 'def f(x):\n    """Return x now."""\n    return x',
    "one word": 'def f(x):\n    """abcdefghijklmnopqrstuvwxyz"""\n    return x',
    "long": f'def f(x):\n    """{"word " * 25}"""\n    return x',
    "half a sentence": 'def f(x):\n    """Return x, which has been\n    given."""\n    return x',
    "a call": 'def f(x):\n    """f(x) -> x, as it was given"""\n    return x',
    "a method call": 'def f(x):\n    """D.f(x) -> x, as it was given"""\n    return x',
    "empty": 'def f(x):\n    """ """\n    return x',
    "61 lines": 'def f(x):\n    """Return what was given."""\n' + "    x += 1\n" * 60,
    "2,000 characters": f'def f(x):\n    """Return what was given."""\n    return "{"x" * 2000}"',
    "another Python": 'def f(x):\n    """Return what was given."""\n    print x',
    "a null byte": 'def f(x):\n    """Return what was given."""\n    return "\0"',
}
KEPT = 'def keep(x):\n    """Return what was given."""\n    return x\n'


def pairs(examples):
    """{answer: code} of examples, whose form is checked on the way."""
    found = {}
    for example in examples:
        assert set(example) == {"messages", "group"}
        user, assistant = example["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        start, end = f"{INSTRUCTION}\n\n```python\n", "\n```"
        assert user["content"].startswith(start)
        assert user["content"].endswith(end)
        found[assistant["content"]] = user["content"][len(start) : -len(end)]
    assert len(found) == len(examples)
    return found


@pytest.fixture(scope="module")
def library():
    return docstring_examples()


def test_each_documented_function_is_asked_about(tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    assert pairs(docstring_examples(tmp_path)) == {
        "Return the sum of a and b.": "@functools.cache\ndef add(a, b):\n    # the sum\n    return a + b",
        "Open the box \\and wait.": 'async def open(self):\n    def inside(x):\n        """Look at what is inside."""\n'
        "        return x\n    return inside",
        "Look at what is inside.": "def inside(x):\n    return x",
        "Text that is not indented.": 'def text(self):\n    return """\nflush left\n"""',
    }


@pytest.mark.parametrize("source", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_no_good_example_is_left_out(tmp_path, source):
    (tmp_path / "a.py").write_text(source)
    (tmp_path / "b.py").write_text(KEPT)
    assert pairs(docstring_examples(tmp_path)) == {"Return what was given.": "def keep(x):\n    return x"}


def test_the_longest_that_is_kept(tmp_path):
    (tmp_path / "a.py").write_text('def f(x):\n    """Return what was given."""\n' + "    x += 1\n" * 59)
    assert len(docstring_examples(tmp_path)) == 1


def test_an_answer_that_came_before_is_left_out(tmp_path):
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text(KEPT.replace("keep", folder))
    (example,) = docstring_examples(tmp_path)
    assert example["group"] == "a/x.py"
    assert "def a(x)" in example["messages"][0]["content"]


def without_docstring(function):
    """The syntax tree of a function without its docstring; white space inside strings does not count."""
    twin = ast.parse(ast.unparse(function)).body[0]
    twin.body = twin.body[1:] if ast.get_docstring(twin) else twin.body
    return re.sub(r"(\\n|\s)+", " ", ast.dump(twin))


def test_the_code_is_the_librarys_without_the_docstring(library):
    """A file in ten, read once more with ast: the code of every example is one of the file's functions."""
    documents, kinds = python_documents(), (ast.FunctionDef, ast.AsyncFunctionDef)
    names = sorted({example["group"] for example in library})[::10]
    assert len(names) > 20
    for name in names:
        trees = [node for node in ast.walk(ast.parse(documents[name])) if isinstance(node, kinds)]
        trees = {ast.get_docstring(node): without_docstring(node) for node in reversed(trees) if len(node.body) > 1}
        first_lines = {str(doc).strip().split("\n")[0].strip(): tree for doc, tree in trees.items()}
        for answer, code in pairs([example for example in library if example["group"] == name]).items():
            (function,) = ast.parse(code).body
            assert ast.get_docstring(function) is None
            assert without_docstring(function) in trees.values()
            assert answer in first_lines


def test_the_library_has_thousands_of_examples_in_a_fixed_order(library):
    found = pairs(library)
    assert len(found) > 2000
    groups = [example["group"] for example in library]
    assert groups == sorted(groups)
    assert {"argparse.py", "email/message.py", "textwrap.py"} <= set(groups)
    for answer, code in found.items():
        assert 15 <= len(answer) <= 120
        assert len(answer.split()) > 1
        assert answer == answer.strip()
        assert len(code) <= 2000
        assert code.count("\n") < 60
    assert docstring_examples() == library
