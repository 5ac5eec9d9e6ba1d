"""One system under test, in a process of its own: `python systems.py SYSTEM WORKLOAD FOLDER`.

It loads the model and the adapter from FOLDER and then obeys lines on its standard input: "step" runs one step,
anything else ends it. Each step is answered by a line of JSON with its seconds and its result (a loss, tokens,
or null); the last line has the peak memory of the process.
"""

import json
import sys
import time
from pathlib import Path

from inference import base_forward, lora_np_generate, merged_forward, transformers_generate, unmerged_forward
from memory import peak_memory
from peers import autograd_step, keeping_memory, mygrad_step
from training import floor_step, lora_np_step, torch_step
from workloads import WORKLOADS

SYSTEMS = {  # kind of workload: {system: what makes its step}
    "lora": {"lora_np": lora_np_step, "torch + PEFT": torch_step, "products alone": floor_step},
    "full": {
        "lora_np": lora_np_step,
        "torch": torch_step,
        "mygrad": mygrad_step,
        "autograd": autograd_step,
        "mygrad+mallopt": keeping_memory(mygrad_step),
        "autograd+mallopt": keeping_memory(autograd_step),
        "products alone": floor_step,
    },
    "generate": {"lora_np": lora_np_generate, "Transformers": transformers_generate},
    "merged": {"base": base_forward, "merged": merged_forward, "not merged": unmerged_forward},
}


def prepare(workload, folder, dtype=None):
    """Write random weights and a random adapter for all systems to load; B is not zero, so that A learns too.

    dtype: what the weights are rounded to and stored in, float32 if None.
    """
    import lora_np

    lora_np.manual_seed(0)
    gpt2 = workload.architecture == "gpt2"
    config_class = lora_np.GPT2Config if gpt2 else lora_np.LlamaConfig
    model_class = lora_np.GPT2LMHeadModel if gpt2 else lora_np.LlamaForCausalLM
    model = model_class(config_class.from_dict(workload.model_config())).to(dtype=dtype)
    model.save_pretrained(folder)
    targets = workload.target_modules
    lora_config = lora_np.LoraConfig(
        r=workload.rank,
        target_modules=targets if isinstance(targets, str) else list(targets),
        fan_in_fan_out=gpt2,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    lora_np.get_peft_model(model, lora_config).save_pretrained(Path(folder) / "adapter")


def main(system, name, folder):
    """Obey the lines on standard input."""
    workload = WORKLOADS[name]
    step = SYSTEMS[workload.kind][system](workload, folder)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if line.strip() != "step":
            break
        start = time.perf_counter()
        result = step()
        print(json.dumps({"seconds": time.perf_counter() - start, "result": result}), flush=True)
    print(json.dumps({"peak_bytes": peak_memory()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
