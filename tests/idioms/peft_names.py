from peft import LoraConfig, PeftModel, PeftModelForCausalLM, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(MODEL)
peft_config = LoraConfig(
    task_type=TaskType.CAUSAL_LM, inference_mode=False, r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["c_attn"]
)

# %% counting what is trained
model = get_peft_model(model, peft_config)
model.print_trainable_parameters()
show(model.get_nb_trainable_parameters())
show(sorted(name for name, p in model.named_parameters() if p.requires_grad))

# %% keywords of get_peft_model
model = get_peft_model(
    model=model,
    peft_config=peft_config,
    adapter_name="mine",
    mixed=False,
    autocast_adapter_dtype=True,
    revision="main",
    low_cpu_mem_usage=False,
)
show(list(model.peft_config))
show(model.peft_config["mine"].revision)
show([type(model).__name__, isinstance(model, PeftModel), isinstance(model, PeftModelForCausalLM)])

# %% the class follows the task
model = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"]))
show(type(model).__name__)

# %% PeftModel itself
model = PeftModel(model, peft_config, adapter_name="default", low_cpu_mem_usage=False)
show(model.get_nb_trainable_parameters())

# %% what is active
model = get_peft_model(model, peft_config)
model.add_adapter("second", LoraConfig(r=2, target_modules=["c_attn"]))
model.add_adapter(adapter_name="third", peft_config=LoraConfig(r=2, target_modules=["c_attn"]), low_cpu_mem_usage=False)
show([model.active_adapter, model.active_adapters])
model.set_adapter("second")
show([model.active_adapter, model.active_adapters, model.active_peft_config.r])
model.base_model.set_adapter(["default", "second"])
show(model.active_adapters)
model.delete_adapter("second")
show([list(model.peft_config), model.active_adapters])

# %% active, but not trained
model = get_peft_model(model, peft_config)
model.set_adapter("default", inference_mode=True)
show(model.get_nb_trainable_parameters()[0])
model.set_requires_grad("default")
show(model.get_nb_trainable_parameters()[0])
model.set_requires_grad(adapter_names=["default"], requires_grad=False)
show(model.get_nb_trainable_parameters()[0])

# %% attributes of the model inside
model = get_peft_model(model, peft_config)
show(type(model.transformer).__name__)
show(type(model.transformer.wte).__name__)
show(model.config.n_embd)
show(model.get_input_embeddings() is model.base_model.model.transformer.wte)
show(model.lm_head.weight is model.base_model.model.lm_head.weight)
show(str(model.device))
show(model.dtype)
show(hasattr(model, "generation_config"))
show(model.get_base_model() is model.base_model.model)
show(type(model.base_model).__name__)
show([hasattr(model, "no_such_thing"), hasattr(model.base_model, "no_such_thing")])
show(model.base_model.peft_config["default"].r)

# %% a missing attribute
model = get_peft_model(model, peft_config)
try:
    model.no_such_thing
except AttributeError as error:
    show("no_such_thing" in str(error))

# %% an adapted layer
model = get_peft_model(model, peft_config)
layer = model.transformer.h[0].attn.c_attn
show(tuple(layer.weight.shape))
show(layer.weight is layer.base_layer.weight)
show(layer.bias is layer.get_base_layer().bias)
show([layer.in_features, layer.out_features])
show([layer.r["default"], layer.scaling["default"], layer.lora_alpha["default"]])
show(tuple(layer.lora_A["default"].weight.shape))
show(float(abs(layer.get_delta_weight("default")).sum()))

# %% there is no such adapter
model = get_peft_model(model, peft_config)
for use in (model.set_adapter, model.delete_adapter):
    try:
        use("missing")
    except (KeyError, ValueError):
        show("refused")

# %% changing a setting of the config
model = get_peft_model(model, peft_config)
model.peft_config["default"].base_model_name_or_path = "my-base"
model.save_pretrained(FOLDER)
show(model.peft_config["default"].base_model_name_or_path)
show(
    PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(MODEL), FOLDER
    ).active_peft_config.base_model_name_or_path
)
