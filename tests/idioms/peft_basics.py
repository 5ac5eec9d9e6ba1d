from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(MODEL)
config = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], task_type=TaskType.CAUSAL_LM)

# %% counting what is trained
model = get_peft_model(model, config)
model.print_trainable_parameters()
show(model.get_nb_trainable_parameters())
