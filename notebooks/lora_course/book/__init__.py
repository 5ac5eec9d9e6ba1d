"""The course as a site: `python -m lora_course.book --out runs/book`, in a clone of the repository.

build.py        the command: gathers the pages, runs Sphinx
staging.py      the pages' folder: notebooks, exercises and texts, each taken from where it is kept
notebooks.py    what is done to a notebook on its way: folded imports, alternative texts
links.py        links out of the book
mathjax.py      MathJax, brought from npm once and kept (../npm.py)
api.py          the pages of the reference, one for each room of the library
docstrings.py   a docstring, which is plain text, in Sphinx's markup
extension.py    what Sphinx asks while it builds

With --lite, the notebooks in the browser (../lite.py, ../pyodide.py) are in the folder `lite` of the site, and each
page of a notebook has a button that leads there. The texts and Sphinx's settings are in `notebooks/book/`.
"""
