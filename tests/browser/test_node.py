"""lora_np under Pyodide, in Node: there are no threads, no packages written in Rust, and no BLAS in NumPy."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browser_helpers import ROOT, in_node

pytestmark = pytest.mark.browser
TESTS = Path(__file__).parents[1]


def readme_example():
    """The README's program, with a line that prints each loss."""
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    (program,) = (text for text in programs if "get_peft_model" in text)
    added = program.replace("    optimizer.zero_grad()\n", "    optimizer.zero_grad()\n    told(loss.item())\n")
    assert added != program
    return f"import lora_np\nlora_np.manual_seed(0)\n{TOLD}\n{added}\n{FILES}"


TOLD = """
import time
began = time.perf_counter() - globals().get("loaded", 0)
def told(loss):
    print("loss", repr(loss), time.perf_counter() - began)
"""
FILES = """
import os, stat
open("runs/other", "w").close()
for place in ("runs/other", *(os.path.join("runs/rose", name) for name in os.listdir("runs/rose"))):
    print("mode", stat.S_IMODE(os.stat(place).st_mode), os.path.basename(place))
"""


def told(printed, word):
    """[[the rest of each line that begins with this word]]."""
    return [line.split()[1:] for line in printed.splitlines() if line.startswith(f"{word} ")]


@pytest.fixture(scope="module")
def printed():
    """What the README's program prints in Node."""
    return in_node(readme_example(), "numpy")


def test_the_readmes_example_has_the_losses_that_it_has_elsewhere(printed, tmp_path):
    here = subprocess.run(
        [sys.executable, "-c", readme_example()], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    losses, expected = (np.array([float(loss) for loss, _ in told(text, "loss")]) for text in (printed, here))
    assert len(losses) == 20
    np.testing.assert_allclose(losses[:2], expected[:2], rtol=2e-6)  # then rounding grows from step to step
    np.testing.assert_allclose(losses, expected, rtol=0.05)
    assert printed.count("A rose is a rose") == here.count("A rose is a rose") == 1


def test_the_first_step_is_done_in_half_a_minute(printed):
    """Runtime, packages and model are loaded then, too. On two quiet cores it is 6 s."""
    assert float(told(printed, "loss")[0][1]) < 30


def test_files_that_are_saved_have_the_mode_that_others_have(printed):
    """The first os.umask(0) says 0o777 there."""
    modes = {name: int(mode) for mode, name in told(printed, "mode")}
    assert set(modes) == {"other", "adapter_config.json", "adapter_model.safetensors"}
    assert set(modes.values()) == {modes["other"]}
    assert modes["other"] & 0o600 == 0o600


PROGRAM = """
import json, struct, sys, warnings
from pathlib import Path
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=ResourceWarning)
import core_only
core_only.EXTRAS += ("safetensors",)
sys.meta_path.insert(0, core_only.Refusing())
core_only.import_everything()
folder = Path("core")
folder.mkdir()
with warnings.catch_warnings():
    warnings.simplefilter("default")
    core_only.train_save_and_load(folder)
    core_only.use_the_shipped_model(folder)

from lora_np import AutoTokenizer
from lora_np.autograd.threads import num_threads, run_in_threads
from lora_np.storage import read_safetensors

found = {"threads": [num_threads(), run_in_threads([lambda: 1, lambda: 2])]}

path = Path("x.safetensors")
def refused(raw):
    path.write_bytes(raw)
    try:
        read_safetensors(path)
    except ValueError as error:
        return "x.safetensors is not a readable safetensors file" in str(error)
    return False

whole = (folder / "gpt2-adapter" / "adapter_model.safetensors").read_bytes()
found["whole"] = refused(whole)
found["cut"] = all(refused(whole[:size]) for size in range(0, len(whole), 97))
deep = b'{"a":' * 5000
found["deep"] = refused(struct.pack("<Q", len(deep)) + deep)

found["missing"] = {package: core_only.message(f) for package, f in core_only.what_needs_an_extra(folder).items()}
print("found", json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    """What the program above finds out: it does all that the core promises, with none of the extras."""
    printed = in_node(PROGRAM, "numpy", files=[TESTS / "core_only.py"])
    return json.loads(printed.partition("found ")[2])


def test_the_core_trains_saves_and_loads_and_runs_the_command_line_in_one_thread(found):
    assert found["threads"] == [1, [1, 2]]


def test_damaged_files_are_refused_there_too(found):
    assert not found["whole"]
    assert found["cut"]
    assert found["deep"]


def test_a_package_that_is_missing_is_named(found):
    assert {"jinja2", "matplotlib", "scipy", "tokenizers"} <= set(found["missing"])
    for package, message in found["missing"].items():
        assert f"(or pip install {package})" in message
