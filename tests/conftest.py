"""Fixtures for all tests: the array library under test, and oracles that must be there when CI says so."""

import importlib
import os

# Before NumPy is loaded: the arrays are small, and BLAS threads of several test processes slow each other down a lot.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("LORA_NP_NUM_THREADS", "1")  # batches in shards: tests/autograd/test_threads.py
os.environ.setdefault("LORA_NP_FULL_TRACEBACKS", "1")  # those of users are shorter: tests/test_refusals.py

import numpy as np
import pytest
from gguf_helpers import the_gguf_package

from lora_np import manual_seed
from lora_np.models.loading import fetch


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """The array library: NumPy always, CuPy in runs with `-m gpu`."""
    return importlib.import_module(request.param)


@pytest.fixture
def rng():
    """A NumPy generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture
def short_report(monkeypatch):
    """The main job measures on few windows and writes little, so that a run is quick."""
    monkeypatch.setattr("lora_np.cli.task.EVALUATION_WINDOWS", 4)
    monkeypatch.setattr("lora_np.cli.task.SAMPLE_LENGTH", 8)


@pytest.fixture(scope="session")
def smollm2_gguf():
    """The GGUF file of SmolLM2. Tests that need it are skipped where it has not been fetched, or fail where CI says
    that it must be there."""
    path = fetch.cached("smollm2")
    if path is None:
        required = os.environ.get("LORA_NP_REQUIRE_PARITY")
        (pytest.fail if required else pytest.skip)("SmolLM2 is not here: lora-np fetch smollm2")
    the_gguf_package()
    return path


@pytest.fixture(scope="session")
def gemma3_gguf():
    """The GGUF file of Gemma 3 270M. Tests that need it are skipped where it has not been fetched."""
    path = fetch.cached("gemma3-270m")
    if path is None:
        pytest.skip("Gemma 3 is not here: lora-np fetch gemma3-270m")
    the_gguf_package()
    return path


@pytest.fixture(scope="session")
def qwen_gguf():
    """The GGUF file of Qwen2.5-Coder 0.5B. Tests that need it are skipped where it has not been fetched."""
    path = fetch.cached("qwen2.5-coder-0.5b")
    if path is None:
        pytest.skip("Qwen2.5-Coder is not here: lora-np fetch qwen2.5-coder-0.5b")
    the_gguf_package()
    return path


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts with the same random numbers."""
    manual_seed(0)


ON_DEMAND = ("book", "browser", "gpu", "suggestions", "widgets")  # markers


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What is on demand runs when `-m` asks for it. Parity tests are skipped by the name of the oracle that is missing,
    or refused where CI requires it. What uses a real model has its marker, so that `-m smollm2` finds it."""
    for item in items:
        for name in ("smollm2", "gemma3", "qwen"):
            if f"{name}_gguf" in getattr(item, "fixturenames", ()):
                item.add_marker(name)
    for name in ON_DEMAND:
        if name not in config.getoption("markexpr"):
            config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker(name)])
            items[:] = [item for item in items if not item.get_closest_marker(name)]
    oracles = ("torch", "transformers", "peft")
    missing = [name for name in oracles if importlib.util.find_spec(name) is None]
    if not missing:
        return
    if os.environ.get("LORA_NP_REQUIRE_PARITY"):
        raise pytest.UsageError(f"parity tests are required, but {', '.join(missing)} is not installed")
    for item in items:
        if item.get_closest_marker("parity"):
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(missing)}: pip install -e '.[parity]'"))
