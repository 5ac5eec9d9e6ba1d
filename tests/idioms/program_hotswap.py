# %% one adapter after another in the same place
import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter
from transformers import AutoModelForCausalLM

model_id = MODEL
inputs = torch.tensor([[5, 6, 7, 8, 9]])
device = "cpu"
model = AutoModelForCausalLM.from_pretrained(model_id).to(device)

# load lora 0
model = PeftModel.from_pretrained(model, ADAPTER)
with torch.inference_mode():
    output_adapter_0 = model(inputs).logits
show(output_adapter_0)

# replace the "default" lora adapter with the new one
hotswap_adapter(model, OTHER, adapter_name="default", torch_device=device)
with torch.inference_mode():
    output_adapter_1 = model(inputs).logits
show(output_adapter_1)
show([model.active_adapters, list(model.peft_config)])

# and back
hotswap_adapter(model, ADAPTER, adapter_name="default", torch_device=device)
with torch.inference_mode():
    show(bool(torch.allclose(model(inputs).logits, output_adapter_0)))

# what does not go
try:
    hotswap_adapter(model, f"{FOLDER}/nothing", adapter_name="default", torch_device=device)
except (OSError, ValueError):
    show("refused")
model.merge_adapter()
try:
    hotswap_adapter(model, OTHER, adapter_name="default", torch_device=device)
except ValueError:
    show("refused")
model.unmerge_adapter()
with torch.inference_mode():
    show(model(inputs).logits)
