import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained(MODEL)
ids = AutoTokenizer.from_pretrained(MODEL)("the cat and the hat", return_tensors="pt")["input_ids"]
model = PeftModel.from_pretrained(base, ADAPTER)
model.load_adapter(OTHER, adapter_name="other")
model.eval()

# %% for good
merged = model.merge_and_unload(progressbar=False, safe_merge=True, adapter_names=None)
show(type(merged).__name__)
with torch.no_grad():
    show(merged(ids).logits)
show(sorted(name for name, _ in merged.named_parameters())[:3])

# %% one by name
merged = model.merge_and_unload(progressbar=True, adapter_names=["other"])
with torch.no_grad():
    show(merged(ids).logits)

# %% for a while
model.merge_adapter()
show(model.transformer.h[0].attn.c_attn.merged_adapters)
with torch.no_grad():
    show(model(ids).logits)
model.unmerge_adapter()
show(model.transformer.h[0].attn.c_attn.merged_adapters)
model.merge_adapter(adapter_names=["other"], safe_merge=False)
with torch.no_grad():
    show(model(ids).logits)

# %% through base_model
model.base_model.merge_adapter()
with torch.no_grad():
    show(model(ids).logits)
model.base_model.unmerge_adapter()
plain = model.base_model.unload()
with torch.no_grad():
    show(plain(ids).logits)

# %% without it
with model.disable_adapter(), torch.no_grad():
    show(model(ids).logits)
with torch.no_grad():
    show(model(ids).logits)
plain = model.unload()
with torch.no_grad():
    show(plain(ids).logits)

# %% switched off
model.base_model.disable_adapter_layers()
with torch.no_grad():
    show(model(ids).logits)
model.base_model.enable_adapter_layers()
with torch.no_grad():
    show(model(ids).logits)

# %% a weighted sum
model.add_weighted_adapter(
    adapters=["default", "other"], weights=[0.7, 0.3], adapter_name="both", combination_type="cat"
)
model.set_adapter("both")
with torch.no_grad():
    show(model(ids).logits)
show([model.peft_config["both"].r, model.active_adapter])

# %% with the options of the SVD
model.add_weighted_adapter(["default", "other"], [1.0, 0.5], "svd", "svd", svd_rank=6, svd_full_matrices=False)
model.set_adapter("svd")
with torch.no_grad():
    show(model(ids).logits)

# %% saved whole
model.merge_and_unload().save_pretrained(FOLDER)
with torch.no_grad():
    show(AutoModelForCausalLM.from_pretrained(FOLDER)(ids).logits)
