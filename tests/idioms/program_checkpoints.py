# %% from the folder's format to names, and back
import json
import os

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    load_peft_weights,
    set_peft_model_state_dict,
)
from transformers import AutoModelForCausalLM

ids = torch.tensor([[5, 6, 7, 8, 9]])
model = AutoModelForCausalLM.from_pretrained(MODEL)
model = PeftModel.from_pretrained(model, ADAPTER, adapter_name="my_adapter", is_trainable=True)
params = dict(model.named_parameters())
show([name for name in params if "lora_" in name])
name = "base_model.model.transformer.h.0.attn.c_attn.lora_A.my_adapter.weight"
show(tuple(params[name].shape))

state = get_peft_model_state_dict(model, adapter_name="my_adapter")
show(list(state))
show(sum(value.numel() for value in state.values()))
weights = load_peft_weights(ADAPTER)
show(sorted(weights) == sorted(state))
show([bool(torch.equal(weights[name], state[name])) for name in sorted(state)])

model.save_pretrained(FOLDER)
show(os.path.isfile(os.path.join(FOLDER, "my_adapter", "adapter_model.safetensors")))
with open(os.path.join(FOLDER, "my_adapter", "adapter_config.json")) as file:
    config = json.load(file)
show([config["peft_type"], config["r"], config["lora_alpha"], config["target_modules"], config["inference_mode"]])

# into a model that was made by hand
lora_config = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"])
peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), lora_config)
set_peft_model_state_dict(peft_model, state)
with torch.no_grad():
    show(peft_model(ids).logits)

# and without a PeftModel around it
injected = inject_adapter_in_model(lora_config, AutoModelForCausalLM.from_pretrained(MODEL))
show([type(injected).__name__, list(get_peft_model_state_dict(injected))])
stripped = {name.removeprefix("base_model.model."): value for name, value in state.items()}
show(set_peft_model_state_dict(injected, stripped).unexpected_keys)
with torch.no_grad():
    show(injected(ids).logits)

# to a model without adapters
merged = peft_model.merge_and_unload()
merged.save_pretrained(os.path.join(FOLDER, "merged"))
with torch.no_grad():
    show(AutoModelForCausalLM.from_pretrained(os.path.join(FOLDER, "merged"))(ids).logits)
