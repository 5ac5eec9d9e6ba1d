import json

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

# %% ways to begin, where to adapt, and how much
for settings in (
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": True, "use_rslora": True},
    {"use_dora": True},
    {"init_lora_weights": "pissa"},
    {"target_modules": "all-linear"},
    {"target_modules": r".*\.h\.0\..*c_(attn|fc)"},
    {"target_modules": ["c_attn", "c_fc"], "layers_to_transform": [1], "layers_pattern": "h"},
    {"target_modules": ["c_attn", "c_fc"], "exclude_modules": ["c_fc"]},
    {"target_modules": ["c_attn", "c_fc"], "rank_pattern": {"c_fc": 2}, "alpha_pattern": {"c_fc": 4}},
    {"modules_to_save": ["ln_f"]},
    {"bias": "lora_only"},
    {"bias": "all"},
    {"lora_bias": True},
):
    config = LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": ["c_attn"], "fan_in_fan_out": True, **settings})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), config)
    show([str(sorted(settings)), *model.get_nb_trainable_parameters()])
    show(sorted(name for name, p in model.named_parameters() if p.requires_grad))
    show({layer.name: layer.available_adapters for layer in model.get_layer_status()})
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7, 8]])).logits
    show(tuple(logits.shape))
    base = AutoModelForCausalLM.from_pretrained(MODEL)
    show(float(abs(logits - base(torch.tensor([[5, 6, 7, 8]])).logits.detach()).max()) < 1e-3)

# %% checkpoints of PiSSA as plain LoRA
ids = torch.tensor([[5, 6, 7, 8]])
config = LoraConfig(init_lora_weights="pissa", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), config)
peft_model.peft_config["default"].init_lora_weights = True
peft_model.save_pretrained(f"{FOLDER}/pissa_init")
peft_model.peft_config["default"].init_lora_weights = "pissa"
for p in peft_model.parameters():
    if p.requires_grad:
        p.data *= 1.25
with torch.no_grad():
    trained = peft_model(ids).logits
peft_model.save_pretrained(f"{FOLDER}/lora", path_initial_model_for_weight_conversion=f"{FOLDER}/pissa_init")
with open(f"{FOLDER}/lora/adapter_config.json") as file:
    fields = json.load(file)
show([fields[name] for name in ("r", "lora_alpha")])
again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), f"{FOLDER}/lora")
with torch.no_grad():
    show(bool(torch.allclose(again(ids).logits, trained, atol=1e-4)))
