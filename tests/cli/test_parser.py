"""Near misses on the command line: understood, or answered with what was meant."""

import argparse
import re

import pytest

from lora_np.cli.main import build_parser, main
from lora_np.cli.parser import MEANT, seed


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--lr", "0.1"], {"learning_rate": 0.1}),
        (["--lr=0.1"], {"learning_rate": 0.1}),
        (["--learning_rate", "0.1"], {"learning_rate": 0.1}),
        (["--max_steps", "3"], {"steps": 3}),
        (["--num_train_epochs=2"], {"epochs": 2.0}),
        (["--per_device_train_batch_size", "2"], {"batch_size": 2}),
        (["--model", "m", "--output_dir", "o"], {"base": "m", "out": "o"}),
        (["--lora_r", "3", "--lora_alpha", "6", "--lora_dropout", "0.1"], {"rank": 3, "alpha": 6.0, "dropout": 0.1}),
        (["my.txt"], {"file": "my.txt"}),
        (["--lr", "1", "my_file.txt"], {"learning_rate": 1.0, "file": "my_file.txt"}),
        (["--data", "a_b.txt", "--target_modules", "c_attn"], {"data": "a_b.txt", "target_modules": ["c_attn"]}),
    ],
)
def test_what_users_of_other_tools_type_is_understood(given, expected):
    options = build_parser().parse_args(["finetune", *given])
    assert {name: getattr(options, name) for name in expected} == expected


def test_what_stands_behind_two_hyphens_is_no_option():
    assert build_parser().parse_args(["generate", "--", "--max_tokens"]).prompt == "--max_tokens"


def test_a_file_without_a_command(tmp_path, capsys):
    (tmp_path / "my.txt").write_text("x")
    with pytest.raises(SystemExit):
        main([str(tmp_path / "my.txt")])
    assert f"did you mean  lora-np finetune {tmp_path / 'my.txt'}?" in capsys.readouterr().err


def test_what_is_meant_are_options():
    known = set()
    for parser in build_parser()._subparsers._group_actions[0].choices.values():
        known |= set(parser._option_string_actions)
    assert set(MEANT.values()) <= known
    assert not set(MEANT) & known


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fintune"], "invalid choice: 'fintune' .*; did you mean finetune?"),
        (["finetune", "--lrr", "3"], "unrecognized arguments: --lrr; did you mean --learning-rate?"),
        (["finetune", "--stepps", "3"], "unrecognized arguments: --stepps; did you mean --steps?"),
        (["generate", "x", "--temprature", "3"], "unrecognized arguments: --temprature 3; did you mean --temperature?"),
        (["merge", "--adaptr", "x", "--out", "y"], "required: --adapter; did you mean --adapter?"),
        (["finetune", "--qqq"], r"unrecognized arguments: --qqq \(see  lora-np finetune --help\)"),
        (["finetune", "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["finetune", "--seed", "-1"], "argument --seed: a seed is a whole number from 0 on, not '-1'"),
        (["generate", "x", "--seed=1.5"], "a seed is a whole number from 0 on, not '1.5'"),
        (["pretrain", "--seed", "-3"], "a seed is a whole number from 0 on, not '-3'"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest(capsys, given, message):
    with pytest.raises(SystemExit) as end:
        main(given)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message.replace("?", r"\?"), error), error


@pytest.mark.parametrize(
    "given",
    [
        ["finetune", "--data", "a\0b"],
        ["finetune", "a\0b"],
        ["finetune", "--out", "a\0b"],
        ["finetune", "--base", "a\0b"],
        ["generate", "x", "--adapter", "a\0b"],
        ["merge", "--adapter", "a", "--out", "a\0b"],
        ["params", "--base", "a\0b"],
        ["pretrain", "--source", "a\0b"],
    ],
)
def test_a_zero_byte_in_a_name_is_said(capsys, given):
    assert main(given) == 2
    assert r"'a\x00b' has a zero byte in it, which no name can have" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["finetune --out=", "finetune --data=", "params --base=", "chat --adapter="])
def test_an_empty_name_is_said(capsys, given):
    assert main(given.split()) == 2
    assert " '' names nothing: leave it out, or give a name" in capsys.readouterr().err


def test_a_seed():
    assert seed("0") == 0
    assert seed("12") == 12
    with pytest.raises(argparse.ArgumentTypeError):
        seed("9" * 30)
