import json

import peft
from peft import LoraConfig, PeftConfig, PeftType, TaskType

config = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], lora_dropout=0.05, bias="none")

# %% what a new one holds
config = LoraConfig()
show([config.r, config.lora_alpha, config.lora_dropout, config.bias, config.target_modules, config.use_rslora])
show([config.peft_type, config.task_type, config.inference_mode, config.modules_to_save])
show([config.peft_type == "LORA", config.peft_type == PeftType.LORA])
show([config.is_prompt_learning, config.rank_pattern, config.alpha_pattern, config.layers_to_transform])

# %% as a dict
fields = config.to_dict()
fields.pop("peft_version")
show(list(fields))
show({name: value for name, value in fields.items() if name != "target_modules"})
show(sorted(fields["target_modules"]))

# %% every field at its neutral value
neutral = {
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "loftq_config": {},
    "eva_config": None,
    "corda_config": None,
    "alora_invocation_tokens": None,
    "use_qalora": False,
    "qalora_group_size": 16,
    "layer_replication": None,
    "target_parameters": None,
    "arrow_config": None,
    "trainable_token_indices": None,
    "ensure_weight_tying": False,
}
show(LoraConfig(r=4, target_modules=["c_attn"], **neutral).r)

# %% saved and read
config.save_pretrained(FOLDER)
again = LoraConfig.from_pretrained(FOLDER)
show([again.r, again.lora_alpha, again.lora_dropout, sorted(again.target_modules), again.inference_mode])
show(type(PeftConfig.from_pretrained(FOLDER)).__name__)
with open(f"{FOLDER}/adapter_config.json") as file:
    show(json.load(file)["peft_type"])

# %% changed by hand
config.r = 4
config.target_modules = ["c_attn"]
show([config.r, config.target_modules])

# %% printed
print(config)
show([str(config).startswith("LoraConfig("), "lora_alpha=32" in repr(config), "r=16" in repr(config)])

# %% read from an adapter's folder
config = PeftConfig.from_pretrained(ADAPTER)
show([type(config).__name__, config.r, config.lora_alpha, config.task_type == TaskType.CAUSAL_LM])
show([config.base_model_name_or_path == MODEL, config.inference_mode, config.fan_in_fan_out])

# %% a config that is no adapter's yet
config = PeftConfig(task_type="CAUSAL_LM", base_model_name_or_path="gpt2")
show([config.task_type, config.peft_type, config.base_model_name_or_path])

# %% of a kind that is named
config = peft.get_peft_config({"peft_type": "LOHA", "r": 4, "alpha": 2, "target_modules": ["q_proj"]})
show([type(config).__name__, config.r, config.alpha])
config = PeftConfig.from_peft_type(peft_type="LORA", r=4)
show([type(config).__name__, config.r])
show(type(LoraConfig.from_peft_type(r=4)).__name__)
fields = PeftConfig.from_json_file(f"{ADAPTER}/adapter_config.json")
show([fields["peft_type"], fields["r"]])
try:
    peft.get_peft_config({"r": 4})
except KeyError:
    show("refused")

# %% names that do not exist
for wrong in ({"rank": 4}, {"alpha": 4}, {"target_module": ["c_attn"]}):
    try:
        LoraConfig(**wrong)
    except TypeError:
        show("refused")

# %% VeRA
config = peft.VeraConfig(r=8, target_modules=["c_attn"], d_initial=0.2)
show([config.peft_type, config.r, config.projection_prng_key, config.vera_dropout, config.save_projection])
