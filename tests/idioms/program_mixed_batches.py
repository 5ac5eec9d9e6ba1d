# %% another adapter for each row of a batch
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(MODEL)
tokenizer = AutoTokenizer.from_pretrained(MODEL)
peft_model = PeftModel.from_pretrained(model, ADAPTER, adapter_name="adapter_fr")
peft_model.load_adapter(OTHER, adapter_name="adapter_de")
peft_model.eval()

text = ["the cat", "the hat", "the cat", "the dog"]
inputs = tokenizer(text, return_tensors="pt", padding=True)
adapter_names = ["__base__", "adapter_fr", "adapter_de", "__base__"]
with torch.no_grad():
    mixed = peft_model(**inputs, adapter_names=adapter_names).logits
show(mixed)

for name in ("adapter_fr", "adapter_de"):
    peft_model.set_adapter(name)
    with torch.no_grad():
        show(peft_model(**inputs).logits)
with peft_model.disable_adapter(), torch.no_grad():
    show(peft_model(**inputs).logits)

try:
    peft_model(**inputs, adapter_names=["__base__", "no_such_adapter", "adapter_de", "__base__"])
except (KeyError, ValueError):
    show("refused")
try:
    peft_model(**inputs, adapter_names=["adapter_fr"])
except ValueError:
    show("refused")
