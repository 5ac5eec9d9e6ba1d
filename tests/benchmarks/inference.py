"""Greedy decoding, of lora_np and of Transformers; and lora_np's forward pass with and without an adapter."""

from pathlib import Path

from training import batch_of


def lora_np_generate(workload, folder):
    """A function that continues the prompt with lora_np and returns the new tokens."""
    import lora_np

    model, ids = lora_np.AutoModelForCausalLM.from_pretrained(folder), batch_of(workload)
    return lambda: model.generate(ids, max_new_tokens=workload.new_tokens)[0, workload.length :].tolist()


def transformers_generate(workload, folder):
    """The same with Transformers, eager."""
    import torch
    from transformers import AutoModelForCausalLM

    model, ids = AutoModelForCausalLM.from_pretrained(folder).eval(), torch.from_numpy(batch_of(workload))
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": workload.new_tokens, "do_sample": False}

    def step():
        with torch.inference_mode():
            return model.generate(ids, **options)[0, workload.length :].tolist()

    return step


def base_forward(workload, folder):
    """A function that runs the forward pass of the model alone. It has no value to compare: the adapters change it."""
    import lora_np

    forward = _forward(lora_np.AutoModelForCausalLM.from_pretrained(folder), batch_of(workload))

    def step():
        forward()

    return step


def merged_forward(workload, folder):
    """A function that runs the forward pass with the adapter merged, and returns a logit."""
    model = _adapted(folder)
    model.merge_adapter()
    return _forward(model, batch_of(workload))


def unmerged_forward(workload, folder):
    """The same with the adapter computed beside its layers."""
    return _forward(_adapted(folder), batch_of(workload))


def _adapted(folder):
    import lora_np

    model = lora_np.AutoModelForCausalLM.from_pretrained(folder)
    return lora_np.PeftModel.from_pretrained(model, Path(folder) / "adapter").eval()


def _forward(model, ids):
    import lora_np

    def step():
        with lora_np.no_grad():
            return float(model(input_ids=ids).logits.data[:, -1].max())

    return step
