import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    load_peft_weights,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from peft.helpers import rescale_adapter_scale
from peft.utils.hotswap import hotswap_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained(MODEL)
ids = AutoTokenizer.from_pretrained(MODEL)("the cat and the hat", return_tensors="pt")["input_ids"]
config = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], task_type="CAUSAL_LM")

# %% the adapter's numbers
model = PeftModel.from_pretrained(base, ADAPTER)
state = get_peft_model_state_dict(model)
show({name: tuple(value.shape) for name, value in state.items()})
show({name: float(abs(value).sum()) for name, value in state.items()})

# %% of one of several
model = PeftModel.from_pretrained(base, ADAPTER)
model.load_adapter(OTHER, "other")
show(get_peft_model_state_dict(model, adapter_name="other"))
show(list(get_peft_model_state_dict(model, state_dict=model.state_dict(), adapter_name="other")))

# %% from one model to another
state = get_peft_model_state_dict(PeftModel.from_pretrained(base, ADAPTER))
model = get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), config)
result = set_peft_model_state_dict(model, state)
show(result.unexpected_keys)
with torch.no_grad():
    show(model(ids).logits)

# %% from a file
weights = load_peft_weights(ADAPTER, device="cpu")
model = get_peft_model(base, config, adapter_name="mine")
set_peft_model_state_dict(model, weights, adapter_name="mine")
with torch.no_grad():
    show(model(ids).logits)

# %% keys that do not belong
model = get_peft_model(base, config)
state = {**get_peft_model_state_dict(model), "base_model.model.nowhere.lora_A.weight": torch.zeros(4, 32)}
show(set_peft_model_state_dict(model, state).unexpected_keys)

# %% another adapter's numbers in its place
model = PeftModel.from_pretrained(base, ADAPTER)
hotswap_adapter(model, OTHER, adapter_name="default", torch_device="cpu")
with torch.no_grad():
    show(model(ids).logits)
show(list(model.peft_config))

# %% swapped to and fro
model = PeftModel.from_pretrained(base, OTHER)
hotswap_adapter(model, ADAPTER, "default")
hotswap_adapter(model, OTHER, "default")
hotswap_adapter(model, ADAPTER, "default")
with torch.no_grad():
    show(model(ids).logits)

# %% stronger and weaker for a while
model = PeftModel.from_pretrained(base, ADAPTER)
with torch.no_grad():
    with rescale_adapter_scale(model, 0.5):
        show(model(ids).logits)
    with rescale_adapter_scale(model, multiplier=0):
        show(model(ids).logits)
    show(model(ids).logits)
try:
    with rescale_adapter_scale(AutoModelForCausalLM.from_pretrained(MODEL), 0.5):
        pass
except ValueError:
    show("refused")

# %% an adapter without a PeftModel
model = inject_adapter_in_model(LoraConfig(r=4, target_modules=["c_attn"]), base)
show(type(model).__name__)
show(sorted(name for name, p in model.named_parameters() if p.requires_grad))
show({name: tuple(value.shape) for name, value in get_peft_model_state_dict(model).items()})
again = inject_adapter_in_model(
    LoraConfig(r=4, target_modules=["c_attn"]),
    AutoModelForCausalLM.from_pretrained(MODEL),
    adapter_name="default",
    low_cpu_mem_usage=False,
)
show(set_peft_model_state_dict(again, get_peft_model_state_dict(model)).unexpected_keys)

# %% before training
model = prepare_model_for_kbit_training(
    base, use_gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
)
show(sum(p.requires_grad for p in model.parameters()))
model = get_peft_model(model, config)
model.print_trainable_parameters()
show(model.get_nb_trainable_parameters())
model.enable_input_require_grads()
model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
model.gradient_checkpointing_disable()
