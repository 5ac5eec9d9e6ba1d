from lora_course.book.links import Links

PAGES = ["README.md", "01_a.ipynb", "exercises/README.md", "exercises/01_b.ipynb", "solutions/TEACHERS.md"]
PAGES += ["index.md", "verdicts.md"]


def rewritten(text, page="README.md", repository="o/r"):
    there = {
        *PAGES,
        "lora_course",
        "solutions",
        "exercises",
        "../lora_np/lora/layer.py",
        "solutions/01_b.ipynb",
        "book/verdicts.md",
    }
    return Links(PAGES, there.__contains__, repository).rewritten(text, page)


def test_links_within_the_book_stay():
    for text in (
        "[a](01_a.ipynb)",
        "[a](01_a.ipynb#what)",
        "[b](exercises/01_b.ipynb)",
        "[x](https://a.b/c)",
        "[h](#top)",
    ):
        assert rewritten(text) == text
    assert rewritten("[up](../01_a.ipynb)", "exercises/01_b.ipynb") == "[up](../01_a.ipynb)"


def test_texts_of_the_book_stand_beside_the_notebooks():
    assert rewritten("[v](book/verdicts.md#top)") == "[v](verdicts.md#top)"
    assert rewritten("[v](../book/verdicts.md)", "exercises/01_b.ipynb") == "[v](../verdicts.md)"


def test_folders_become_their_pages():
    assert rewritten("[e](exercises/)") == "[e](exercises/README.md)"
    assert rewritten("[s](../solutions)", "exercises/README.md") == "[s](../solutions/TEACHERS.md)"


def test_other_files_are_linked_on_github():
    found = rewritten("[l](../../lora_np/lora/layer.py#L3)", "exercises/README.md")
    assert found == "[l](https://github.com/o/r/blob/main/lora_np/lora/layer.py#L3)"
    assert rewritten("[c](lora_course/)") == "[c](https://github.com/o/r/blob/main/notebooks/lora_course)"


def test_without_a_repository_they_are_text():
    assert rewritten("see [`c`](lora_course/), or", repository=None) == "see `c`, or"


def test_code_that_looks_like_a_link_and_pictures_stay():
    for text in ("layers[name](rank)", "f[0](**batch)", "![p](lora_course)"):
        assert rewritten(text) == text


def test_a_wrong_link_stays_for_sphinx_to_refuse():
    assert rewritten("[gone](13_gone.ipynb)") == "[gone](13_gone.ipynb)"
