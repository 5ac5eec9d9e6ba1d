"""The command line: what it runs, how it says no, and that Ctrl-C loses nothing."""

import os
import signal
import subprocess
import sys
import time
import types

import pytest

import lora_np
from lora_np.cli.main import build_parser, main, outcome
from lora_np.cli.options import FinetuneOptions
from lora_np.extras import require

pytestmark = pytest.mark.usefixtures("short_report")

TEXT = "\n\n".join(f"Paragraph {i}. The cat sat on the mat, and the dog looked at the cat. " * 4 for i in range(40))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text(TEXT)
    return str(path)


DONE = {"history": {"interrupted": False}}


def test_no_command_is_the_main_job_with_its_defaults(monkeypatch):
    seen = []
    monkeypatch.setattr("lora_np.cli.finetune.finetune", lambda options, **told: seen.append(options) or DONE)
    assert main([]) == 0
    assert main(["finetune"]) == 0
    assert seen == [FinetuneOptions()] * 2


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["all-linear"], "all-linear"),
        (["c_attn"], ("c_attn",)),
        (["c_attn", "c_fc"], ("c_attn", "c_fc")),
        (["c_attn,c_proj"], ("c_attn", "c_proj")),
        (["c_attn,", "c_proj"], ("c_attn", "c_proj")),
        ([r".*\.c_fc"], r".*\.c_fc"),
        ([r".*\.\d{1,2}\.c_fc"], r".*\.\d{1,2}\.c_fc"),
    ],
)
def test_target_modules(monkeypatch, given, meant):
    seen = []
    monkeypatch.setattr("lora_np.cli.finetune.finetune", lambda options, **told: seen.append(options) or DONE)
    main(["finetune", "--target-modules", *given])
    assert seen[0].target_modules == meant


def test_finetune_then_resume_when_done(tmp_path, text, capsys):
    command = ["finetune", "--data", text, "--out", str(tmp_path / "out"), "--steps", "2", "--batch-size", "2"]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert "trainable params: 65,536 || all params: 924,416 || trainable%: 7.0894" in first
    assert main([*command, "--resume"]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", "0"], "r must be an integer of at least 1, got 0"),
        (["--dropout", "1"], "lora_dropout must be in [0, 1), got 1.0"),
        (["--target-modules", "q_attn"], "no layer matches 'q_attn'; did you mean 'c_attn'?"),
        (["--base", "nowhere"], "'nowhere' is neither a directory, nor a .gguf file, nor the name of a shipped"),
        (["--data", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--steps", "0"], "steps must be a positive integer, got 0"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--learning-rate", "-1"], "learning_rate must be positive, got -1.0"),
        (
            ["--target-modules", "lm_head"],
            "lm_head shares its weight with another layer, which merging would change too",
        ),
        (["--device", "gpu"], "unknown device 'gpu': expected 'cpu', 'cuda' or 'cuda:N'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("lora_np.cli.waiting.PAUSE", 600)  # on a slow machine it says what it is doing
    assert main(["finetune", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--alpha", "64"], "alpha was 16, now 64.0"),
        (["--dropout", "0.5"], "dropout was 0.0, now 0.5"),
        (["--rank", "2"], "rank was 8, now 2"),
        (["--data", "other.txt"], "data was"),
    ],
)
def test_going_on_with_another_run_is_refused(tmp_path, text, capsys, monkeypatch, change, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text(TEXT.upper())
    command = ["finetune", "--data", text, "--out", "out", "--steps", "2", "--batch-size", "2"]
    assert main(command) == 0
    written = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert main([*command, *change, "--resume"]) == 2
    assert named in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == written


def test_a_missing_package_is_one_line_and_status_2(capsys, monkeypatch):
    monkeypatch.setattr("lora_np.cli.generate.load", lambda *given: require("no_such_package", "this model", "gguf"))
    assert main(["generate", "x"]) == 2
    command = "pip install -e '.[gguf]' (or pip install no_such_package)"
    assert capsys.readouterr().err == f"lora-np: this model needs the package no_such_package: {command}\n"


def test_resuming_from_nothing_is_refused(tmp_path, text, capsys):
    assert main(["finetune", "--data", text, "--out", str(tmp_path / "out"), "--steps", "1", "--resume"]) == 2
    assert "checkpoint.safetensors does not exist" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused(text, capsys):
    assert main(["finetune", "--data", text, "--out", text]) == 2
    assert "is a file; it must be a directory" in capsys.readouterr().err


def test_an_output_with_too_long_a_name_is_refused(text, tmp_path, capsys):
    assert main(["finetune", "--data", text, "--out", str(tmp_path / ("x" * 300))]) == 2
    assert "the name is too long" in capsys.readouterr().err


def test_help_explains_every_option(capsys):
    parser = build_parser()
    for command in ([], ["finetune"], ["pretrain"]):
        with pytest.raises(SystemExit) as end:
            parser.parse_args([*command, "--help"])
        assert end.value.code == 0
    text = capsys.readouterr().out
    assert "rank of the update" in text
    assert all(f"--{name}" in text for name in ("data", "base", "out", "rank", "alpha", "target-modules", "resume"))


def test_pretrain_writes_a_model(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    for i in range(60):
        (source / f"m{i}.py").write_text(f"def f{i}(x):\n    return x + {i}\n" * 20)
    arguments = ["pretrain", "--out", str(tmp_path / "out"), "--steps", "1", "--source", str(source)]
    assert main(arguments) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert "loss_nats_per_byte" in capsys.readouterr().out


def test_ctrl_c_leaves_an_adapter_and_a_checkpoint_to_go_on_from(tmp_path, text):
    out = tmp_path / "out"
    arguments = ["--data", text, "--out", str(out), "--batch-size", "2", "--rank", "2", "--steps", "500"]
    command = [sys.executable, "-m", "lora_np", "finetune", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    for line in process.stderr:  # the progress bar: steps have begun
        if "loss=" in line:
            break
    process.send_signal(signal.SIGINT)
    report, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "--resume goes on from there" in report
    assert (out / "adapter_model.safetensors").is_file()
    assert (out / "checkpoint.safetensors").is_file()


def test_ctrl_c_while_the_parts_are_read_is_one_line(monkeypatch, capsys):
    import lora_np.__main__ as program

    monkeypatch.setitem(sys.modules, "lora_np.cli", Interrupting("lora_np.cli"))
    assert program.main() == 130
    assert capsys.readouterr().err == "\nlora-np: stopped\n"


class Interrupting(types.ModuleType):
    """A module during whose import Ctrl-C comes."""

    def __getattr__(self, name):
        raise KeyboardInterrupt


def test_too_little_memory_is_one_line(capsys):
    def ask_for(array):
        raise array

    assert outcome(lambda: ask_for(MemoryError("Unable to allocate 191 GiB"))) == 2
    assert outcome(lambda: ask_for(MemoryError())) == 2
    assert capsys.readouterr().err.splitlines() == [
        "lora-np: there is not enough memory: Unable to allocate 191 GiB",
        "lora-np: there is not enough memory",
    ]


def test_a_pipe_that_nobody_reads_ends_it_silently():
    command = [sys.executable, "-m", "lora_np", "generate", "hi", "--greedy"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_another_pipe_that_breaks_is_said(capsys):
    def broken():
        raise BrokenPipeError(32, "Broken pipe")

    assert outcome(broken) == 2
    assert "Broken pipe" in capsys.readouterr().err


def test_what_cannot_be_shown_is_a_question_mark():
    command = [sys.executable, "-m", "lora_np", "generate", "café", "--greedy", "--max-new-tokens", "1"]
    found = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert found.returncode == 0
    assert found.stdout.startswith(b"caf?")


def test_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"lora-np {lora_np.__version__}\n"
