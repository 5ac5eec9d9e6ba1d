"""The pages of the reference. Each public name stands on one, which follows from the module it is defined in."""

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import lora_np
from lora_np import autograd, costs, nn
from lora_np.lora import analysis

PAGES = {  # {page: (title, what is on it, prefixes of the modules of its names)}
    "adapters": ("Adapters", "A model with adapters: made, trained, switched, merged, saved.", ("lora", "auto_peft")),
    "settings": ("Kinds of adapters", "One class for the settings of each kind. `LoraConfig` is LoRA's.", ()),
    "models": ("Models", "Models, their configs and their tokenizers.", ("models",)),
    "generation": ("Writing text", "How a model writes, and when it stops.", ("models.generation",)),
    "training": ("Training", "Data, optimizers, schedules, the loop.", ("training", "nn.utils")),
    "tensors": ("Tensors and gradients", "The engine: what a tensor is, and the walk back.", ("autograd",)),
    "layers": ("Layers", "What models are made of: `lora_np.nn`.", ()),
    "costs": ("Costs", "What a model and its adapters cost: `lora_np.costs`.", ()),
    "analysis": ("Looking into an update", "Spectra, ranks and shared directions: `lora_np.lora.analysis`.", ()),
}
ROOMS = {"layers": nn, "costs": costs, "analysis": analysis}  # pages for a module of its own
FIRST = (  # what most programs need, in this order; it stands above the rest of its page
    *("get_peft_model", "LoraConfig", "PeftModel", "AutoModelForCausalLM", "AutoTokenizer"),
    *("train", "TrainingArguments", "evaluate", "AdamW", "Tensor", "no_grad"),
)
MEMBERS = ":members:\n   :inherited-members: Module, Sequential, dict, list, tuple, object, str, Enum"


def names_by_page() -> dict[str, list[str]]:
    """{page: the full names on it}, the `FIRST` ones, then alphabetically; all of `lora_np` and of the rooms."""
    found = {page: [] for page in PAGES}
    for name in lora_np.__all__:
        found[page_of(getattr(lora_np, name))].append(f"lora_np.{name}")
    found["tensors"] += [f"lora_np.autograd.{name}" for name in public(autograd) if name not in lora_np.__all__]
    for page, module in ROOMS.items():
        found[page] += [f"{module.__name__}.{name}" for name in public(module)]
    return {page: sorted(names, key=_place) for page, names in found.items()}


def _place(name):
    last = name.removeprefix("lora_np.")
    return (FIRST.index(last) if last in FIRST else len(FIRST), name.lower())


def page_of(thing: object) -> str:
    """The page of a public name of `lora_np`: that of the longest prefix of its module. KeyError if there is none."""
    module = thing.__module__.removeprefix("lora_np.")
    if module.startswith(("lora.", "auto_peft")) and thing.__name__.endswith("Config"):
        return "settings"
    prefixes = {prefix: page for page, (_, _, ours) in PAGES.items() for prefix in ours}
    return prefixes[max((p for p in prefixes if f"{module}.".startswith(f"{p}.")), key=len)]


def public(module: ModuleType) -> list[str]:
    """The classes and functions that a module offers and lora_np defines."""
    if not hasattr(module, "__all__"):
        return [
            name for name, thing in vars(module).items() if _is(thing, module.__name__) and not name.startswith("_")
        ]
    return [name for name in module.__all__ if _is(getattr(module, name), "lora_np")]


def _is(thing, where):
    """Whether it is a class or a function, defined in a module whose name begins like this."""
    return (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__.startswith(where)


def write_reference(folder: Path) -> None:
    """Write the pages, and one that lists them, as reStructuredText."""
    folder.mkdir(parents=True)
    for page, names in names_by_page().items():
        title, about, _ = PAGES[page]
        links = " · ".join(f":py:obj:`~{name}`" for name in names)
        parts = [_heading(title), about.replace("`", "``"), links, *(_entry(name) for name in names)]
        (folder / f"{page}.rst").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    intro = "The public names, with what their docstrings say. Names and arguments are those of PEFT and Transformers."
    begin = "Most programs need " + ", ".join(f":py:obj:`~lora_np.{name}`" for name in FIRST) + "."
    about = "\n".join(f"- :doc:`{page}`: {said.replace('`', '``')}" for page, (_, said, _) in PAGES.items())
    tree = ".. toctree::\n   :maxdepth: 1\n   :hidden:\n\n" + "".join(f"   {page}\n" for page in PAGES)
    parts = [_heading("Reference"), intro, begin, about, tree]
    (folder / "index.rst").write_text("\n\n".join(parts), encoding="utf-8")


def _heading(title):
    return f"{title}\n{'=' * len(title)}"


def _entry(name):
    """What documents one name."""
    module, _, last = name.rpartition(".")
    thing = getattr(importlib.import_module(module), last)
    if inspect.isclass(thing):
        return f".. autoclass:: {name}\n   {MEMBERS}"
    return f".. autofunction:: {name}"
