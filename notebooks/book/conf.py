"""Sphinx's settings. `python -m lora_course.book` gathers the pages and runs it."""

import lora_np

project = "LoRA from scratch"
author = "the lora_np contributors"
copyright = "the lora_np contributors, Apache-2.0"
release = version = lora_np.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "lora_course.book.extension",
]
root_doc = "index"
nitpicky = False
numfig = False

nb_execution_mode = "off"  # notebooks carry their outputs
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what things are
autodoc_preserve_defaults = True
toc_object_entries = False  # a thousand names in the navigation of every page: slow

mathjax4_config = {
    "options": {"enableMenu": False}
}  # the menu would load files that are not here

html_theme = "sphinx_book_theme"
html_title = project
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_use_index = False  # search finds every name; the reference lists them
html_css_files = ["book.css"]
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # search is in the sidebar
    "show_navbar_depth": 1,
    "show_toc_level": 2,
}


def setup(app):
    """The buttons, where it is known where the repository is."""

    def buttons(app, config):
        repository = config.html_context.get("repository")
        if repository:
            config.html_theme_options |= {
                "repository_url": f"https://github.com/{repository}",
                "repository_branch": config.html_context["branch"],
                "path_to_docs": "notebooks",
                "launch_buttons": {"colab_url": "https://colab.research.google.com"},
                "use_repository_button": True,
            }

    app.connect("config-inited", buttons, priority=100)
