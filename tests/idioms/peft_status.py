import dataclasses

from peft import LoraConfig, PeftModel, get_layer_status, get_model_status
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), ADAPTER, adapter_name="first")
model.load_adapter(OTHER, "second")

# %% of the model
status = model.get_model_status()
show(dataclasses.asdict(status))
show([status.enabled, status.active_adapters, status.merged_adapters, status.available_adapters])
show(dataclasses.asdict(get_model_status(model)))

# %% of the layers
for layer in model.get_layer_status():
    show([layer.name, layer.module_type, layer.enabled, layer.active_adapters, layer.merged_adapters])
    show([layer.requires_grad, layer.available_adapters, layer.devices, layer.quantization_backend])
show(len(get_layer_status(model)))

# %% of one layer
layer = model.base_model.model.transformer.h[0].attn.c_attn
show([layer.merged, layer.merged_adapters, layer.disable_adapters, layer.active_adapters, layer.fan_in_fan_out])
show(layer.active_adapter)
show([layer.r, layer.lora_alpha, layer.scaling, layer.use_dora])
show([layer.lora_A.first.weight.shape, layer.lora_B["second"].weight.shape, list(layer.lora_A), len(layer.lora_B)])
show(hasattr(layer.lora_A, "third"))
show(layer.lora_A.first.weight)
model.merge_adapter(["second"])
show([layer.merged, layer.merged_adapters])
model.unmerge_adapter()
show(layer.merged)
with model.disable_adapter():
    show(layer.disable_adapters)
show(layer.disable_adapters)
show(model.targeted_module_names)

# %% it follows what is done
model.set_adapter("second")
show([model.get_model_status().active_adapters, model.get_model_status().requires_grad])
model.merge_adapter(["second"])
show(model.get_model_status().merged_adapters)
model.unmerge_adapter()
with model.disable_adapter():
    show(model.get_model_status().enabled)
show(model.get_model_status().enabled)
model.base_model.disable_adapter_layers()
show([model.get_model_status().enabled, model.get_nb_trainable_parameters()[0]])
model.base_model.enable_adapter_layers()
show([model.get_model_status().enabled, model.get_nb_trainable_parameters()[0]])

# %% adapters on other layers
model.add_adapter("third", LoraConfig(r=2, target_modules=["c_fc"], modules_to_save=["ln_f"]))
model.set_adapter("third")
show(dataclasses.asdict(model.get_model_status()))
show([[layer.name, layer.module_type, layer.available_adapters] for layer in model.get_layer_status()])

# %% a model without adapters
try:
    get_layer_status(AutoModelForCausalLM.from_pretrained(MODEL))
except ValueError:
    show("refused")
