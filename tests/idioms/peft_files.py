import os

import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, PeftModelForCausalLM
from peft.helpers import check_if_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained(MODEL)
ids = AutoTokenizer.from_pretrained(MODEL)("the cat and the hat", return_tensors="pt")["input_ids"]

# %% an adapter onto a model
model = PeftModel.from_pretrained(base, ADAPTER)
model.eval()
with torch.no_grad():
    show(model(ids).logits)
show([model.get_nb_trainable_parameters()[0], model.peft_config["default"].inference_mode])

# %% keywords of PeftModel.from_pretrained
model = PeftModel.from_pretrained(
    model=base,
    model_id=ADAPTER,
    adapter_name="mine",
    is_trainable=True,
    config=None,
    autocast_adapter_dtype=True,
    ephemeral_gpu_offload=False,
    low_cpu_mem_usage=False,
    key_mapping=None,
)
show([model.active_adapter, model.get_nb_trainable_parameters()[0], type(model).__name__])

# %% a config of one's own
config = PeftConfig.from_pretrained(ADAPTER)
config.lora_alpha = 40
model = PeftModel.from_pretrained(base, ADAPTER, config=config)
with torch.no_grad():
    show(model(input_ids=ids).logits)

# %% the class for language models
model = PeftModelForCausalLM.from_pretrained(base, ADAPTER, is_trainable=True)
show(model.get_nb_trainable_parameters())

# %% more adapters
model = PeftModel.from_pretrained(base, ADAPTER, adapter_name="first")
result = model.load_adapter(OTHER, adapter_name="second", is_trainable=False)
show([result.missing_keys, result.unexpected_keys])
model.load_adapter(model_id=OTHER, adapter_name="third", torch_device="cpu", low_cpu_mem_usage=False)
show(list(model.peft_config))
show(model.active_adapters)
model.set_adapter("second")
with torch.no_grad():
    show(model(ids).logits)

# %% base and adapter at once
model = AutoPeftModelForCausalLM.from_pretrained(ADAPTER)
show([type(model).__name__, model.active_adapter])
with torch.no_grad():
    show(model(ids).logits)

# %% base and adapter at once, with the base's keywords
model = AutoPeftModelForCausalLM.from_pretrained(
    ADAPTER, adapter_name="mine", is_trainable=True, dtype=torch.float32, device_map="cpu"
)
show([model.active_adapter, model.get_nb_trainable_parameters()[0]])

# %% the long way round
config = PeftConfig.from_pretrained(ADAPTER)
model = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
tokenizer = AutoTokenizer.from_pretrained(config.base_model_name_or_path)
model = PeftModel.from_pretrained(model, ADAPTER)
show([config.peft_type, config.task_type, config.r])
show(model(**tokenizer("the cat", return_tensors="pt")).logits.detach())

# %% saving
model = PeftModel.from_pretrained(base, ADAPTER)
model.save_pretrained(FOLDER)
show(sorted(name for name in os.listdir(FOLDER) if name != "README.md"))
again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), FOLDER)
with torch.no_grad():
    show(bool((again(ids).logits == model(ids).logits).all()))

# %% saving some of several
model = PeftModel.from_pretrained(base, ADAPTER)
model.load_adapter(OTHER, "other")
model.load_adapter(OTHER, "third")
model.save_pretrained(save_directory=FOLDER, safe_serialization=True, selected_adapters=["default", "third"])
show(sorted(name for name in os.listdir(FOLDER) if name != "README.md"))
show(check_if_peft_model(os.path.join(FOLDER, "third")))
again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), FOLDER, subfolder="third")
show(again.active_peft_config.r)

# %% only the main process saves
model = PeftModel.from_pretrained(base, ADAPTER)
model.save_pretrained(FOLDER, is_main_process=False, save_embedding_layers=False)
show(os.path.exists(os.path.join(FOLDER, "adapter_config.json")))

# %% is it an adapter?
show([check_if_peft_model(ADAPTER), check_if_peft_model(MODEL), check_if_peft_model("there-is-no-such-folder")])

# %% a folder that is not there
for load in (lambda: PeftModel.from_pretrained(base, "no-such-adapter"), lambda: PeftConfig.from_pretrained("no-such")):
    try:
        load()
    except (OSError, ValueError):
        show("refused")

# %% settings that do nothing
model = PeftModel.from_pretrained(base, ADAPTER, revision="main", token=None, cache_dir=FOLDER, force_download=False)
show(model.active_adapter)
