# %% train an adapter, save it, load it
import os

import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

peft_config = LoraConfig(task_type=TaskType.CAUSAL_LM, inference_mode=False, r=8, lora_alpha=32, lora_dropout=0.0)

model = AutoModelForCausalLM.from_pretrained(MODEL)
tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = get_peft_model(model, peft_config)
model.print_trainable_parameters()
show(model.get_nb_trainable_parameters())

inputs = tokenizer("the cat and the hat", return_tensors="pt")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses = []
model.train()
for _ in range(3):
    outputs = model(input_ids=inputs["input_ids"], labels=inputs["input_ids"])
    outputs.loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(outputs.loss.item())
show(len(losses))
show(losses[-1] < losses[0])
model.save_pretrained(FOLDER)
show(sorted(name for name in os.listdir(FOLDER) if name != "README.md"))

model.eval()
with torch.no_grad():
    trained = model(**inputs).logits
model = AutoPeftModelForCausalLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = model.to("cpu")
model.eval()
inputs = tokenizer("the cat and the hat", return_tensors="pt")
with torch.no_grad():
    again = model(**inputs).logits
show(bool(torch.allclose(again, trained, atol=1e-5)))
show(model.get_nb_trainable_parameters()[0])
