"""The main job in several processes: what one process would have learnt, and one report."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from communicator_helpers import in_threads, results

from lora_np.autograd import gpus
from lora_np.cli import main, together
from lora_np.cli.finetune import finetune
from lora_np.cli.options import FinetuneOptions
from lora_np.storage import read_safetensors

TEXT = "\n\n".join(f"Paragraph {i}. The cat sat on the mat, and the dog looked at the cat. " * 4 for i in range(40))
LABELLED = "".join(f'"text {i} is {word}",{word}\n' for i in range(20) for word in ("good", "bad"))
FEW = {"steps": 3, "batch_size": 4, "rank": 2, "max_length": 32, "target_modules": ("c_attn",)}
COMMAND = ["--steps", "3", "--batch-size", "4", "--rank", "2", "--max-length", "32", "--target-modules", "c_attn"]


@pytest.fixture
def folder(tmp_path, monkeypatch, short_report):
    (tmp_path / "my.txt").write_text(TEXT)
    (tmp_path / "my.csv").write_text(f"text,label\n{LABELLED}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_one_adapter(first, second):
    arrays, others = (read_safetensors(f"{out}/adapter_model.safetensors")[0] for out in (first, second))
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(others[name], array, rtol=1e-3, atol=5e-4, err_msg=name)


@pytest.mark.parametrize("data", [{"data": "my.txt"}, {"data": "my.csv", "task": "classify"}])
def test_several_learn_what_one_does_and_the_first_alone_speaks_and_writes(folder, data):
    lines = [[], []]

    def run(communicator):
        return finetune(FinetuneOptions(out="two", **data, **FEW), lines[communicator.rank].append, None, communicator)

    first, second = results(2, run)
    alone = finetune(FinetuneOptions(out="one", **data, **FEW), lambda line: None)
    assert lines[0]
    assert not lines[1]
    assert set(second) == {"history"}
    assert first["history"]["loss"] == second["history"]["loss"]
    np.testing.assert_allclose(first["history"]["loss"], alone["history"]["loss"], rtol=1e-5)
    assert_one_adapter("one", "two")


def test_all_go_on_from_one_checkpoint(folder):
    def run(communicator, **more):
        options = {**FEW, "data": "my.txt", "out": "two", **more}
        return finetune(FinetuneOptions(**options), lambda line: None, None, communicator)

    results(2, lambda communicator: run(communicator, steps=2))
    histories = results(2, lambda communicator: run(communicator, resume=True))
    assert [len(result["history"]["loss"]) for result in histories] == [3, 3]


def test_a_batch_that_cannot_be_shared_out_is_an_error_at_once(folder):
    options = FinetuneOptions(data="my.txt", out="three", **FEW)
    errors = in_threads(3, lambda communicator: finetune(options, lambda line: None, None, communicator))
    said = "3 processes cannot share out batches of 4 evenly: give another --batch-size"
    assert [(type(error), str(error)) for error in errors] == [(ValueError, said)] * 3
    assert not (folder / "three").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--processes", "0"], "--processes must be at least 1, got 0"),
        (["--processes", "2", "--device", "cuda:1"], "--device is cuda, not cuda:1"),
        (["--processes", "2", "--device", "cuda"], "--processes 2 needs a GPU for each process, and there are 1"),
        (["--processes", "2"], "on a CPU needs mpirun, and there is none here: pip install -e '.[distributed]'"),
    ],
)
def test_what_cannot_be_is_a_sentence(folder, given, said, capsys, monkeypatch):
    monkeypatch.setattr("lora_np.autograd.gpus.device_count", lambda: 1)
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    assert main(["finetune", "my.txt", *given]) == 2
    assert capsys.readouterr().err.endswith(f"{said}\n")


def process(code):
    return subprocess.Popen([sys.executable, "-c", code])


def test_when_one_fails_the_others_are_ended():
    waiting, failing = process("import time; time.sleep(100)"), process("import sys; sys.exit(3)")
    assert together._ended([waiting, failing]) == 3
    assert waiting.poll() < 0
    assert together._ended([process("pass"), process("pass")]) == 0


def test_under_mpi(folder):
    """The whole command: one report, and the adapter of one process."""
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip(f"needs mpi4py: {together.INSTALL}")
    assert_two_do_what_one_does(folder)


@pytest.mark.gpu
def test_on_two_gpus(folder):
    if gpus.device_count() < 2:
        pytest.skip("needs two GPUs")
    assert_two_do_what_one_does(folder, "--device", "cuda")


def assert_two_do_what_one_does(folder, *more):
    environment = {**os.environ, "LORA_NP_NUM_THREADS": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    for processes in ("1", "2"):
        words = ["finetune", "my.csv", "--task", "classify", *COMMAND, "--out", processes, *more]
        command = [sys.executable, "-m", "lora_np", *words, "--processes", processes]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("held-out accuracy") == 1
        assert ("2 processes; each step sends" in done.stdout) == (processes == "2")
    assert_one_adapter("1", "2")
    assert json.loads((folder / "2" / "adapter_config.json").read_text())["r"] == 2
