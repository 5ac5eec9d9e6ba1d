from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(MODEL)
batch = tokenizer(["the quick fox", "the"], padding=True, return_tensors="pt")
ids = batch["input_ids"]
model = AutoModelForCausalLM.from_pretrained(MODEL)
size = model.config.vocab_size

# %% a longer vocabulary
embedding = model.resize_token_embeddings(size + 3)
show(embedding.num_embeddings == model.config.vocab_size == size + 3)
show(embedding is model.get_input_embeddings())
show(model.get_output_embeddings().weight is embedding.weight)
show(model.lm_head.out_features - size)
show(model(input_ids=ids).logits[:, :, :size])
mean = embedding.weight.data[:size].mean(0)
show(abs(embedding.weight.data[size:] - mean).max() < 1e-3)
model.save_pretrained(FOLDER)
again = AutoModelForCausalLM.from_pretrained(FOLDER)
show(again.config.vocab_size - size)

# %% rounded up, not around the mean, shorter, unchanged
show(model.resize_token_embeddings(size + 1, pad_to_multiple_of=8).num_embeddings % 8)
show(model.resize_token_embeddings(size + 50, mean_resizing=False).num_embeddings - size)
show(model.resize_token_embeddings(size - 5).num_embeddings - size)
show(model.resize_token_embeddings().num_embeddings - size)
show(model(input_ids=ids).logits)

# %% training rows of new tokens
model.resize_token_embeddings(size + 2)
config = LoraConfig(r=4, target_modules=["c_attn"], trainable_token_indices=[size, size + 1])
model = get_peft_model(model, config)
model.print_trainable_parameters()
show(model.get_nb_trainable_parameters())
show([name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name])

# %% rows of the embedding: gradient, saving, merging
indices = [int(ids[0, 0]), int(ids[0, 1])]
config = LoraConfig(r=4, target_modules=["c_attn"], trainable_token_indices={"wte": indices})
model = get_peft_model(model, config)
model(input_ids=ids, labels=ids).loss.backward()
delta = dict(model.named_parameters())["base_model.model.transformer.wte.token_adapter.trainable_tokens_delta.default"]
show(delta.shape)
show(delta.grad)
delta.data[0] = 0.5
show(model(input_ids=ids).logits)
model.save_pretrained(FOLDER)
with model.disable_adapter():
    show(model(input_ids=ids).logits)
loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), FOLDER)
show(loaded(input_ids=ids).logits)
show(loaded.peft_config["default"].trainable_token_indices)
merged = loaded.merge_and_unload()
show(merged(input_ids=ids).logits)
show(merged.transformer.wte.weight[indices[0]])
show(merged.lm_head.weight is merged.transformer.wte.weight)

# %% an embedding that is trained whole, and one with LoRA
model = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], modules_to_save=["wte"]))
show(model.get_nb_trainable_parameters())
model = AutoModelForCausalLM.from_pretrained(MODEL)
model = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn", "wte"]))
show(model.get_nb_trainable_parameters())

# %% a resized model's adapter brings the embedding along
model.resize_token_embeddings(size + 2)
model.transformer.wte.weight.data[size] = 0.25
model.transformer.wte.weight.data[size + 1] = -0.25
model = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"]))
logits = model(input_ids=ids).logits
show(logits)
model.save_pretrained(FOLDER)
base = AutoModelForCausalLM.from_pretrained(MODEL)
base.resize_token_embeddings(size + 2)
show(PeftModel.from_pretrained(base, FOLDER)(input_ids=ids).logits)

# %% what a module that is trained whole is asked
adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], modules_to_save=["ln_f"]))
norm = adapted.base_model.model.transformer.ln_f
show([norm.weight.shape, norm.weight.requires_grad, norm.original_module.weight.requires_grad])
show(norm.weight is norm.modules_to_save.default.weight)
show(norm.active_adapters)
show(hasattr(norm, "in_features"))
adapted.add_adapter("other", LoraConfig(r=4, target_modules=["c_attn"]))
adapted.set_adapter("other")
show(norm.weight is norm.original_module.weight)
untied = get_peft_model(
    AutoModelForCausalLM.from_pretrained(MODEL),
    LoraConfig(r=4, target_modules=["c_attn"], modules_to_save=["wte", "lm_head"]),
)
show([untied.get_input_embeddings().weight.shape, untied.get_input_embeddings().num_embeddings])
show([untied.get_output_embeddings().weight.shape, untied.lm_head.in_features, untied.lm_head.bias is None])
