import inspect

import pytest

from lora_course.book.docstrings import inline, marked_up
from lora_course.book.mathjax import MATHJAX


def test_code_stays_code_and_the_rest_is_no_markup():
    assert inline("`a_b` of *x and y_") == r"``a_b`` of \*x and y\_"
    assert inline("``x``s, f`g`") == r"``x``\ s, f\ ``g``"
    assert inline("one ` alone") == r"one \` alone"


def test_rows_become_definitions_with_all_of_their_lines():
    lines = [
        "What it does.",
        "",
        "rank       how many",
        "           directions",
        "alpha, s   how far",
        "beta1, two as ever",
        "Errors: none.",
    ]
    assert marked_up(lines) == [
        *("What it does.", ""),
        *(
            "``rank``",
            "    how many",
            "    directions",
            "",
            "``alpha, s``",
            "    how far",
            "",
            "``beta1, two``",
            "    as ever",
            "",
        ),
        *("Errors: none.", ""),
    ]


def test_lists_and_what_is_indented_stay():
    assert marked_up(["- one", "  more", "- two"]) == ["- one", "  more", "- two", ""]
    assert marked_up(["As here:", "", "    y = W x"])[2:] == [".. code-block:: text", "", "    y = W x", ""]
    assert marked_up(["    f(x)"])[0] == ".. code-block:: python"


@pytest.mark.book  # which has docutils
def test_every_docstring_of_the_reference_is_read_without_a_complaint():
    """By docutils alone: Sphinx's roles and directives are not in docstrings, but for code-block."""
    from docutils import core

    import lora_np

    for name in lora_np.__all__:
        lines = marked_up((inspect.getdoc(getattr(lora_np, name)) or "").splitlines())
        text = "\n".join("::" if line.startswith(".. code-block::") else line for line in lines)
        core.publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 5})


def test_another_file_than_mathjax_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path / "cache"))
    wrong = tmp_path / "mathjax.tgz"
    wrong.write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"is not the file that was expected: its SHA-256 is .*, not {MATHJAX.sha256}"):
        MATHJAX.folder(wrong)


def test_without_npm_it_is_said_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_NP_CACHE", str(tmp_path))
    monkeypatch.setattr("lora_course.npm.shutil.which", lambda name: None)
    with pytest.raises(
        RuntimeError, match=r"npm, which brings it, is not installed; bring mathjax-.*tgz with `npm pack"
    ):
        MATHJAX.folder()
