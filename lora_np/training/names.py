"""Transformers' names for what `TrainingArguments` is told: understood, of no effect here, or refused with a reason."""

import difflib
from collections.abc import Mapping
from operator import attrgetter
from os import PathLike
from typing import TYPE_CHECKING, Any

# {Transformers' name: ours}
RENAMED = {
    "max_steps": "steps",
    "gradient_accumulation_steps": "accumulation",
    "eval_steps": "eval_every",
    "save_steps": "checkpoint_every",
    "load_best_model_at_end": "load_best",
    "evaluation_strategy": "eval_strategy",
    "activation_checkpointing": "gradient_checkpointing",
}
BETAS = ("adam_beta1", "adam_beta2")
# What changes nothing here, whatever its value: what a run logs (the bar and the history have every step), how batches
# are loaded (all data is in memory), how several GPUs talk, what is written (one checkpoint, replaced).
NO_EFFECT = {
    *("logging_steps", "logging_strategy", "logging_first_step", "logging_dir", "logging_nan_inf_filter"),
    *("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm", "run_name", "project"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("remove_unused_columns", "overwrite_output_dir", "save_total_limit", "save_safetensors", "save_only_model"),
    *("do_train", "do_eval", "do_predict", "prediction_loss_only", "skip_memory_metrics", "local_rank"),
    *("ddp_find_unused_parameters", "ddp_backend", "ddp_timeout", "use_cpu", "no_cuda"),
    *("eval_accumulation_steps", "full_determinism", "gradient_checkpointing_kwargs"),
    "activation_checkpointing_kwargs",
    *(
        "include_num_input_tokens_seen",
        "length_column_name",
        "label_names",
        "hub_token",
        "hub_model_id",
        "hub_strategy",
    ),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "hub_private_repo", "hub_always_push"),
    *("hub_revision", "eval_do_concat_batches", "eval_use_gather_object", "accelerator_config", "ddp_bucket_cap_mb"),
    *("ddp_broadcast_buffers", "ddp_static_graph", "dataloader_in_order", "dataloader_multiprocessing_context"),
    *("save_on_each_node", "use_cache", "torch_empty_cache_steps", "restore_callback_states_from_checkpoint"),
}
TORCH = "it is about torch: leave it out"
BFLOAT16 = "the model's dtype says it: from_pretrained(name, dtype='bfloat16'); leave it out"
SMOOTHED = (
    "the model computes its plain cross-entropy without holding the logits; in a loop of your own, "
    "lora_np.nn.functional.cross_entropy has label_smoothing"
)
FLOAT32 = "everything is computed in float32 here: leave it out"
# {name: (the values that change nothing, what to say to others)}
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "fp16": ((False, None), FLOAT32),
    "bf16": ((False, None), BFLOAT16),
    "tf32": ((False, None), FLOAT32),
    "fp16_full_eval": ((False, None), FLOAT32),
    "bf16_full_eval": ((False, None), BFLOAT16),
    "optim_args": ((None, "", {}), "the usual settings are taken; for others write the loop yourself"),
    "report_to": (
        ("none", "all", None, [], ["none"]),
        "no service is logged to: write report_to='none', and look at the history that train() returns",
    ),
    "push_to_hub": ((False, None), "nothing is uploaded: save_pretrained writes a folder that can be"),
    "deepspeed": ((None,), "processes train together by lora_np.training.parallel"),
    "fsdp": ((None, "", []), "processes train together by lora_np.training.parallel"),
    "torch_compile": ((False, None), "there is no torch here: leave it out"),
    "use_liger_kernel": ((False, None), "the operations here are fused already: leave it out"),
    "label_smoothing_factor": ((0, None), SMOOTHED),
    "neftune_noise_alpha": ((None, 0), "no noise is added to embeddings: leave it out"),
    "group_by_length": (
        (False, None),
        "rows are drawn in a random order; ExampleData(packing=True) leaves little padding",
    ),
    "auto_find_batch_size": ((False, None), "give per_device_train_batch_size, and gradient_accumulation_steps"),
    "dataloader_drop_last": ((False, None), "every row is trained on: leave it out"),
    "data_seed": ((None,), "one seed decides all: give seed"),
    "eval_on_start": ((True, False, None), ""),  # it is always done
    "eval_delay": ((0, None), "evaluations begin with the first step: leave it out"),
    "average_tokens_across_devices": ((True, False, None), ""),
    "train_sampling_strategy": (("random",), "rows are drawn in a random order: leave it out"),
    "optim_target_modules": ((None,), "what is trained is what is not frozen: leave it out"),
    "include_for_metrics": (([], None), "runs are measured by their loss"),
    "batch_eval_metrics": ((False, None), "runs are measured by their loss"),
    "ignore_data_skip": ((False, None), "a run that is resumed sees what it would have seen: leave it out"),
    **{name: ((None, False, "", []), TORCH) for name in ("torch_compile_backend", "torch_compile_mode", "debug")},
    **dict.fromkeys(("liger_kernel_config", "enable_jit_checkpoint", "fsdp_config"), ((None, False), TORCH)),
    "parallelism_config": ((None,), "processes train together by lora_np.training.parallel"),
    "resume_from_checkpoint": ((None, False), "train(..., resume=True) and Trainer.train(resume_from_checkpoint=True)"),
}


class ReadByTheirNames:
    """Fields that can also be read under Transformers' names. Abstract: a base of `TrainingArguments`."""

    steps: int
    betas: tuple[float, float]

    @property
    def max_steps(self) -> int:
        """`steps`; -1, as in Transformers, where num_train_epochs decides."""
        return self.steps or -1

    @property
    def adam_beta1(self) -> float:
        """The first of `betas`."""
        return self.betas[0]

    @property
    def adam_beta2(self) -> float:
        """The second of `betas`."""
        return self.betas[1]

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            kind = type(self).__name__
            if name in NO_EFFECT or name in REFUSED:
                raise AttributeError(f"{kind} takes {name!r} and keeps no value of it: it changes nothing here")
            close = difflib.get_close_matches(name, [known for known in dir(type(self)) if known[0] != "_"], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise AttributeError(f"{kind} has no attribute {name!r}{hint}")


for _theirs, _ours in RENAMED.items():
    if _theirs not in vars(ReadByTheirNames):
        setattr(ReadByTheirNames, _theirs, property(attrgetter(_ours), doc=f"`{_ours}`."))


def understood(first: tuple[Any, ...], given: Mapping[str, Any], fields: tuple[str, ...]) -> dict[str, Any]:
    """What `TrainingArguments(*first, **given)` means, by the names of its `fields`.

    first: what was given by position; a text is Transformers' output_dir, which comes first there.
    ValueError for one thing that is said twice and differently, or that is not possible here; TypeError for a name that
    neither library has.
    """
    if first and isinstance(first[0], str | PathLike):
        given = {**dict(zip(("output_dir", *fields[1:]), first, strict=False)), **given}
        first = ()
    found: dict[str, Any] = {}
    said: dict[str, str] = {}  # by which name
    for name, value in [*zip(fields, first, strict=False), *given.items()]:
        target = RENAMED.get(name, name)
        if name in RENAMED and (value is None or (name == "max_steps" and value == -1)):
            continue  # how Transformers says that nothing is said
        if target in fields:
            if target in found and found[target] != value:
                raise ValueError(
                    f"{name}={value!r} and {said[target]}={found[target]!r} are two names of one thing: give one"
                )
            found[target], said[target] = value, name
        elif name not in BETAS:
            _check_other(name, value, fields)
    strategy, logged = found.get("eval_strategy"), given.get("logging_steps")
    if getattr(strategy, "value", strategy) == "steps" and type(logged) is int and logged > 0:
        found.setdefault("eval_every", logged)  # as in Transformers
    if found.get("metric_for_best_model", found) is None:
        del found["metric_for_best_model"]
    if found.get("greater_is_better") is None:  # as in Transformers
        found["greater_is_better"] = not str(found.get("metric_for_best_model", "loss")).endswith("loss")
    if found.get("num_train_epochs") is not None and found.setdefault("steps", 0):
        found["num_train_epochs"] = None  # as in Transformers, steps go before epochs; 0 is what is not known yet
    return found | _betas(given, found)


def _betas(given: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """adam_beta1 and adam_beta2 as `betas`."""
    if not any(name in given for name in BETAS):
        return {}
    betas = (given.get("adam_beta1", 0.9), given.get("adam_beta2", 0.999))
    if "betas" in found and tuple(found["betas"]) != betas:
        raise ValueError(
            f"betas={found['betas']!r} and adam_beta1, adam_beta2 = {betas} are names of one thing: give one"
        )
    return {"betas": betas}


def _check_other(name: str, value: Any, fields: tuple[str, ...]) -> None:
    """Take what has no effect; refuse the rest."""
    if name in NO_EFFECT:
        return
    if name not in REFUSED:
        close = difflib.get_close_matches(name, [*fields, *RENAMED, *BETAS, *REFUSED, *NO_EFFECT], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise TypeError(f"TrainingArguments has no argument {name!r}{hint}")
    harmless, why = REFUSED[name]
    value = getattr(value, "value", value)  # of an enum
    if not any(isinstance(value, bool) is isinstance(one, bool) and value == one for one in harmless):
        raise ValueError(f"{name}={value!r:.60} is not possible here: {why}")
