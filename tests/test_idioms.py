"""What users of PEFT and Transformers type, as they type it: `tests/idioms/` has the lines, one file for each subject.

Each file is run twice, with PEFT, Transformers and torch as it stands, and with lora_np in the places of their names;
what it shows must be equal. The lines up to the first `# %% title` are run before each of the parts that follow, so
that each part is a small program of its own. Of the names in it, these are given: MODEL and ADAPTER, folders that
Transformers and PEFT saved (a GPT-2 of two blocks with a tokenizer; r=4 on c_attn), OTHER, a second adapter (r=2 on
c_attn), FOLDER, an empty one, and show(value), which compares. Random numbers differ: nothing shown may depend on them.
"""

import enum
import re
from pathlib import Path

import numpy as np
import pytest

from lora_np import manual_seed

FILES = sorted((Path(__file__).parent / "idioms").glob("*.py"))
PART = re.compile(r"^# %% (.*)$", re.MULTILINE)
OURS = [  # what another library's line becomes
    (re.compile(r"^from (peft|transformers|torch)(\.[\w.]+)? import", re.MULTILINE), "from lora_np import"),
    (re.compile(r"^import (torch|peft|transformers)$", re.MULTILINE), r"import lora_np as \1"),
]


def parts():
    """(file's name and part's title, its program) of all."""
    for file in FILES:
        first, *rest = PART.split(file.read_text(encoding="utf-8"))
        for title, lines in zip(rest[::2], rest[1::2], strict=True):
            yield pytest.param(first + lines, id=f"{file.stem}: {title}")


def here(program):
    """The program with lora_np instead of PEFT, Transformers and torch."""
    for pattern, text in OURS:
        program = pattern.sub(text, program)
    return program


def plain(value):
    """What was shown, as numbers, strings, lists and dicts."""
    if isinstance(value, enum.Enum):
        return value.value
    if type(value).__name__ in ("dtype", "device") or isinstance(value, np.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value))
    if isinstance(value, dict) or hasattr(value, "items"):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    return np.asarray(value).tolist() if hasattr(value, "shape") else value


def equal(ours, theirs):
    """Equal, or, where they are no integers, up to float32's rounding."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(equal(ours[k], theirs[k]) for k in ours)
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(equal, ours, theirs))
    if isinstance(theirs, float):
        return isinstance(ours, float) and bool(np.isclose(ours, theirs, rtol=2e-4, atol=2e-5, equal_nan=True))
    return type(ours) is type(theirs) and ours == theirs


def run(program, folders, folder):
    shown = []
    folder.mkdir()
    exec(
        compile(program, "idiom", "exec"), {**folders, "FOLDER": str(folder), "show": lambda x: shown.append(plain(x))}
    )
    return shown


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """MODEL and ADAPTER, as Transformers and PEFT save them."""
    import peft
    import torch
    from tokenizer_helpers import trained
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("idioms")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained(), unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, **ids)
    model = GPT2LMHeadModel(config)
    for p in model.parameters():  # random enough to write something
        torch.nn.init.normal_(p, std=0.2)
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    for name, r in (("adapter", 4), ("other", 2)):
        options = {"target_modules": ["c_attn"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
        base = GPT2LMHeadModel.from_pretrained(root / "model")
        peft.get_peft_model(base, peft.LoraConfig(r=r, lora_alpha=8, **options)).save_pretrained(root / name)
    return {name.upper(): str(root / name) for name in ("model", "adapter", "other")}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("program", list(parts()))
def test_the_same_lines_show_the_same(program, folders, tmp_path):
    import torch

    torch.manual_seed(0)
    theirs = run(program, folders, tmp_path / "theirs")
    manual_seed(0)
    ours = run(here(program), folders, tmp_path / "ours")
    assert theirs, "the part shows nothing"
    for number, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        assert equal(own, other), f"show number {number + 1}: {own} here, {other} there"


def test_nothing_of_other_libraries_is_left():
    programs = [here(parameter.values[0]) for parameter in parts()]
    assert programs
    left = [
        line
        for program in programs
        for line in program.splitlines()
        if re.match(r"\s*(from|import) (peft|torch|trans)", line)
    ]
    assert not left
