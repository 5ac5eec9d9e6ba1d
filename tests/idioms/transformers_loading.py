import json

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

ids = AutoTokenizer.from_pretrained(MODEL)("the cat and the hat", return_tensors="pt")["input_ids"]

# %% with many keywords
model = AutoModelForCausalLM.from_pretrained(
    pretrained_model_name_or_path=MODEL,
    dtype=torch.float32,
    device_map="cpu",
    revision="main",
    cache_dir=FOLDER,
    token=None,
    trust_remote_code=True,
    attn_implementation="eager",
    low_cpu_mem_usage=True,
    use_safetensors=True,
    local_files_only=True,
)
with torch.no_grad():
    show(model(ids).logits)
show(model.dtype)

# %% the older spellings
model = AutoModelForCausalLM.from_pretrained(MODEL, torch_dtype="auto", device_map={"": "cpu"}, use_cache=False)
with torch.no_grad():
    show(model(ids).logits)
show(model.training)

# %% in another precision
model = AutoModelForCausalLM.from_pretrained(MODEL, torch_dtype=torch.float64)
show(model.dtype)
show(AutoModelForCausalLM.from_pretrained(MODEL, dtype="float16").dtype)

# %% by the model's class
model = GPT2LMHeadModel.from_pretrained(MODEL)
show(type(model).__name__)
with torch.no_grad():
    show(model(ids).logits)

# %% settings of the config
model = GPT2LMHeadModel.from_pretrained(MODEL, attn_pdrop=0.0, resid_pdrop=0.25)
show([model.config.attn_pdrop, model.config.resid_pdrop, model.config.embd_pdrop])
config = AutoConfig.from_pretrained(MODEL, n_layer=1)
show([type(config).__name__, config.n_layer, config.n_embd, config.vocab_size, config.model_type])
show(GPT2Config.from_pretrained(MODEL).n_positions)

# %% a new model
config = AutoConfig.from_pretrained(MODEL)
model = AutoModelForCausalLM.from_config(config)
show(sum(p.requires_grad for p in model.parameters()))
show(tuple(model(ids).logits.shape))
show(model.training)
config = GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2)
show(GPT2LMHeadModel(config).num_parameters())
show(AutoModelForCausalLM.from_config(config, dtype=torch.float16).dtype)

# %% a config of one's own
config = GPT2Config.from_pretrained(MODEL)
config.resid_pdrop = 0.5
model = AutoModelForCausalLM.from_pretrained(MODEL, config=config)
show(model.config.resid_pdrop)

# %% saved and loaded
model = AutoModelForCausalLM.from_pretrained(MODEL)
model.save_pretrained(save_directory=FOLDER, safe_serialization=True, max_shard_size="2GB")
with torch.no_grad():
    show(AutoModelForCausalLM.from_pretrained(FOLDER)(ids).logits)
model.config.save_pretrained(FOLDER)
show(AutoConfig.from_pretrained(FOLDER).n_head)

# %% what is asked of a model
model = AutoModelForCausalLM.from_pretrained(MODEL)
show([model.num_parameters(), model.num_parameters(only_trainable=True), model.config.n_head])
show(tuple(model.get_input_embeddings().weight.shape))
show(tuple(model.get_output_embeddings().weight.shape))

# %% a tokenizer's keywords
tokenizer = AutoTokenizer.from_pretrained(
    MODEL, use_fast=True, padding_side="left", trust_remote_code=True, revision="main", token=None
)
show([tokenizer.padding_side, tokenizer.pad_token, tokenizer.eos_token_id])

# %% a folder that is not there
for load in (AutoModelForCausalLM.from_pretrained, AutoTokenizer.from_pretrained, AutoConfig.from_pretrained):
    try:
        load("no-such-folder")
    except (OSError, ValueError):
        show("refused")

# %% what a loaded model says of itself
model = AutoModelForCausalLM.from_pretrained(MODEL)
show(model.get_memory_footprint())
show(json.loads(model.config.to_json_string())["n_embd"])
show(sorted({name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, Conv1D)}))
show([model.config.hidden_size, model.config.num_hidden_layers, model.config.num_attention_heads])
adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"]))
show([name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)])
show(sum(isinstance(module, BaseTunerLayer) for module in adapted.modules()))
