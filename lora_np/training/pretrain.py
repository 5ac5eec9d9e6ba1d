"""How the shipped base model was made: a byte-level GPT, trained on the source of Python's standard library."""

import platform
from os import PathLike
from pathlib import Path
from typing import Any

from ..autograd import manual_seed
from ..models import ByteTokenizer, GPT2Config, GPT2LMHeadModel
from ..storage import together, write_json
from .arguments import TrainingArguments
from .data import TextData, fingerprint, prose_documents, python_documents, split_documents
from .evaluation import evaluate
from .loop import train

CONFIG: dict[str, Any] = {
    "vocab_size": 256,
    "n_positions": 256,
    "n_embd": 128,
    "n_layer": 4,
    "n_head": 4,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
BATCH_SIZE, EVALUATION_WINDOWS = 32, 256


def pretrain(
    directory: str | PathLike[str],
    steps: int = 6000,
    seed: int = 0,
    device: str = "cpu",
    source: str | PathLike[str] | None = None,
    resume: bool = False,
) -> dict[str, Any] | None:
    """Train the base model and write it to `directory`; returns what is written to its training.json.

    The directory receives config.json, model.safetensors, the tokenizer's files and training.json: the seed, the hash
    of the text, the settings, the losses on held-out files. `source` is the folder of Python files to learn from,
    by default the standard library of the Python that runs this. Random windows of 257 bytes, 32 at a time.
    """
    documents = python_documents(source)
    parts = split_documents(documents, held_out=0.05)
    tokenizer, length = ByteTokenizer(), CONFIG["n_positions"] + 1  # see _drop_last_position
    text = {name: TextData(part, tokenizer, length, BATCH_SIZE, name) for name, part in parts.items()}
    args = _arguments(steps, seed)
    manual_seed(seed)
    model = GPT2LMHeadModel(GPT2Config(**{**CONFIG, "n_positions": length})).to(device)
    validation = text["validation"].windows()[:EVALUATION_WINDOWS]
    history = train(model, text["train"], args, {"validation": validation}, directory, resume)
    if history["interrupted"]:
        return None
    _drop_last_position(model)
    prose = TextData(prose_documents(), tokenizer, length - 1, BATCH_SIZE).windows()[:EVALUATION_WINDOWS]
    test = TextData(parts["test"], tokenizer, length - 1, BATCH_SIZE).windows()
    report = {
        "data": Path(source).name if source else f"standard library source of Python {platform.python_version()}",
        "data_sha256": fingerprint(documents),
        "data_bytes": sum(len(text.encode("utf-8", errors="replace")) for text in documents.values()),
        "seed": seed,
        "batch_size": BATCH_SIZE,
        "window": length,
        "steps": steps,
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "loss_nats_per_byte": {
            "train_last_100_steps": round(sum(history["loss"][-100:]) / len(history["loss"][-100:]), 4),
            "python_test_files": round(evaluate(model, test), 4),
            "reference_prose": round(evaluate(model, prose), 4),
        },
    }
    with together(directory):
        model.to("cpu").save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        write_json(Path(directory) / "training.json", report)
    return report


def _arguments(steps: int, seed: int) -> TrainingArguments:
    return TrainingArguments(
        steps=steps,
        learning_rate=3e-3,
        warmup_steps=min(200, steps // 10),
        min_lr_ratio=0.05,
        weight_decay=0.1,
        betas=(0.9, 0.98),
        eval_every=min(500, steps),
        checkpoint_every=min(500, steps),
        seed=seed,
    )


def _drop_last_position(model: GPT2LMHeadModel) -> None:
    """Shorten the context by one. The last position of a window has nothing to predict, so it learned nothing."""
    model.config.n_positions -= 1
    wpe = model.transformer.wpe
    wpe.num_embeddings, wpe.weight.data = wpe.num_embeddings - 1, wpe.weight.data[:-1].copy()
