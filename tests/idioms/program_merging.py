# %% several adapters made into one
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

config = PeftConfig.from_pretrained(ADAPTER)
model = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path, device_map="auto").eval()
tokenizer = AutoTokenizer.from_pretrained(MODEL)

model = PeftModel.from_pretrained(model, ADAPTER, adapter_name="norobots")
_ = model.load_adapter(OTHER, adapter_name="adcopy")
_ = model.load_adapter(ADAPTER, adapter_name="sql")
inputs = tokenizer("the cat and the hat", return_tensors="pt")

adapters = ["norobots", "sql"]
weights = [2.0, 0.3]
model.add_weighted_adapter(adapters, weights, "linear", combination_type="linear")
model.add_weighted_adapter(adapters, weights, "ties", combination_type="ties", density=0.4)
model.add_weighted_adapter(["norobots", "adcopy"], [1.0, 1.0], "cat", combination_type="cat")
model.add_weighted_adapter(["norobots", "adcopy"], [1.0, 1.0], "svd", combination_type="svd", svd_rank=4)
model.add_weighted_adapter(adapters, weights, "prune", combination_type="magnitude_prune", density=0.5)
for name in ("linear", "ties", "cat", "svd", "prune", "norobots", "adcopy"):
    model.set_adapter(name)
    with torch.no_grad():
        show(model(**inputs).logits)
show(model.active_adapter)

model.delete_adapter("adcopy")
show(sorted(model.peft_config))
model.set_adapter("ties")
model = model.merge_and_unload()
show(type(model).__name__)
with torch.no_grad():
    show(model(**inputs).logits)
model.save_pretrained(FOLDER)
again = AutoModelForCausalLM.from_pretrained(FOLDER)
with torch.no_grad():
    show(again(**inputs).logits)
