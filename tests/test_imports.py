"""The floors of the package: imports run down only, no framework is used, nothing unpickles."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lora_course
import lora_np

ROOT = Path(lora_np.__file__).parent
COURSE = Path(lora_course.__file__).parent

# What each part may import of the others. A new part must be given its floor here.
FLOORS = {
    "autograd": set(),
    "storage": {"autograd"},
    "nn": {"autograd"},
    "lora": {"autograd", "storage", "nn"},
    "models": {"autograd", "storage", "nn"},
    "training": {"autograd", "storage", "nn", "lora", "models"},
    "auto_peft": {"storage", "lora", "models"},
    "optimizers": {"training"},
    "costs": {"autograd", "nn", "lora", "models", "training"},
    "plots": {"storage"},
    "cli": {"autograd", "storage", "lora", "models", "training", "costs", "plots"},
    "__main__": {"cli"},
    "aliases": set(),
    "expect": set(),
    "keywords": set(),
    "extras": set(),
    "refusals": set(),
    "settings": set(),
    "__init__": {"autograd", "storage", "nn", "lora", "models", "auto_peft", "training", "costs"},
}
FRAMEWORKS = {"torch", "jax", "tensorflow", "transformers", "peft", "keras", "flax", "mlx"}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def sources():
    return sorted(ROOT.rglob("*.py"))


def course_sources():
    return sorted(COURSE.rglob("*.py"))


def part_of(path):
    """autograd/fused/norm.py -> autograd; plots.py -> plots."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(source, package):
    """The absolute names of all that a module in `package` (such as "lora_np.lora") imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            start = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def package_of(path):
    root = ROOT if path.is_relative_to(ROOT) else COURSE
    return ".".join(path.relative_to(root.parent).parent.parts)


def top_names(path):
    """The names of the packages that a module imports."""
    return {name.split(".")[0] for name in imports(path.read_text(encoding="utf-8"), package_of(path))}


def parts_used(source, package):
    """The parts of lora_np that a module imports."""
    names = (name.split(".") for name in imports(source, package))
    return {name[1] for name in names if name[0] == "lora_np" and len(name) > 1}


def ids(path):
    return str(path.relative_to(ROOT if path.is_relative_to(ROOT) else COURSE.parent))


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("from ..autograd import ops", "lora_np.nn", {"autograd"}),
        ("from .. import nn", "lora_np.lora", {"nn"}),
        ("from ..nn.layers import normal", "lora_np.models", {"nn"}),
        ("from . import kernels", "lora_np.autograd", {"autograd"}),
        ("from .storage import replacing", "lora_np", {"storage"}),
        ("from ...lora.config import x", "lora_np.autograd.fused", {"lora"}),
        ("def f():\n    import lora_np.training.loop as loop", "lora_np.nn", {"training"}),
        ("from lora_np.lora import LoraConfig", "lora_np.models", {"lora"}),
        ("import numpy as np\nfrom pathlib import Path", "lora_np.nn", set()),
    ],
)
def test_this_test_sees_imports_of_every_form(source, package, expected):
    assert parts_used(source, package) == expected


def test_every_part_has_a_floor():
    assert {part_of(path) for path in sources()} <= set(FLOORS)


@pytest.mark.parametrize("path", sources(), ids=ids)
def test_imports_run_down_the_floors(path):
    part = part_of(path)
    below = {part, "aliases", "expect", "extras", "keywords", "refusals", "settings"} | FLOORS.get(part, set())
    above = parts_used(path.read_text(encoding="utf-8"), package_of(path)) - below
    if part in ("__init__", "cli"):
        above -= {"__version__"}
    assert not above, f"{ids(path)} is on the floor {part!r} and must not import {', '.join(sorted(above))}"


def test_lora_and_models_do_not_know_each_other():
    assert "models" not in FLOORS["lora"]
    assert "lora" not in FLOORS["models"]


@pytest.mark.parametrize("path", sources(), ids=ids)
def test_the_library_does_not_know_the_course(path):
    assert "lora_course" not in top_names(path)


@pytest.mark.parametrize("path", sources() + course_sources(), ids=ids)
def test_no_framework_and_no_unpickler_is_imported(path):
    assert not top_names(path) & FRAMEWORKS
    assert not top_names(path) & UNPICKLERS
    assert "allow_pickle=True" not in path.read_text(encoding="utf-8").replace(" ", "")


@pytest.mark.parametrize("path", sources() + course_sources(), ids=ids)
def test_cupy_is_chosen_in_one_place(path):
    in_autograd = path.is_relative_to(ROOT / "autograd")
    assert in_autograd or not top_names(path) & {"cupy", "cupyx", "cupy_backends"}


def test_the_packages_have_sources():
    assert len(sources()) > 20  # an empty list would pass all of the above
    assert len(course_sources()) > 20
    assert any("lora_np" in top_names(path) for path in course_sources())


def test_importing_lora_np_loads_nothing_heavy():
    code = "import sys, lora_np; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & (
        FRAMEWORKS
        | {"cupy", "matplotlib", "IPython", "ipywidgets", "pandas"}
        | {"gguf", "tokenizers", "jinja2", "huggingface_hub", "threadpoolctl", "scipy"}
    )


def test_importing_lora_np_reads_little_besides_numpy():
    code = "import sys, numpy; before = set(sys.modules); import lora_np; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    parts = [name.split(".") for name in done.stdout.split()]
    assert {name[0] for name in parts} <= {"lora_np", "threading"}
    assert {name[1] for name in parts if len(name) > 1} <= {"aliases", "autograd", "expect", "extras"}


def test_every_public_name_is_there():
    assert all(hasattr(lora_np, name) for name in lora_np.__all__)
    assert sorted(set(lora_np.__all__)) == sorted(lora_np.__all__)


def test_names_are_there_when_asked_for_and_parts_are_not_read_before():
    code = """
import sys
import lora_np
assert "numpy" in sys.modules and lora_np.Tensor
unread = {"lora_np.lora", "lora_np.models", "lora_np.training"} - set(sys.modules)
assert unread == {"lora_np.lora", "lora_np.models", "lora_np.training"}, unread
assert set(lora_np.__all__) < set(dir(lora_np))
assert lora_np.storage.safetensors
for name in lora_np.__all__:
    assert getattr(lora_np, name).__name__ == name
assert lora_np.AdamW is vars(lora_np)["AdamW"]
try:
    lora_np.Adamax
except AttributeError as error:
    assert str(error) == "module 'lora_np' has no attribute 'Adamax'"
else:
    raise AssertionError("a name that is not there was found")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_editors_are_told_the_same_names():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == {*lora_np.__all__, "TYPE_CHECKING", "aliases", "torch_names"}
