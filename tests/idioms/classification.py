from peft import LoraConfig, PeftModel, PeftModelForSequenceClassification, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2ForSequenceClassification

tokenizer = AutoTokenizer.from_pretrained(MODEL)
texts = ["the quick fox", "the", "a quick brown fox jumps over the lazy dog"]
batch = tokenizer(texts, padding=True, return_tensors="pt")
labels = batch["input_ids"][:, 0] % 3
model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=3)
for i in range(3):
    model.score.weight.data[i] = 0.1 * i - 0.1
    model.score.weight.data[i, i] = 0.5
config = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn"], task_type=TaskType.SEQ_CLS)

# %% logits, loss and the head's gradient
out = model(**batch, labels=labels)
out.loss.backward()
show(out.logits.shape)
show(out.logits)
show(out.loss.item())
show(model.score.weight.grad)
show(model.num_labels)

# %% names of the classes
named = AutoModelForSequenceClassification.from_pretrained(
    MODEL, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
)
show(named.config.num_labels)
show(named.config.id2label[1])
show(named.config.label2id["good"])
show(model.config.id2label)
named.save_pretrained(FOLDER)
again = AutoModelForSequenceClassification.from_pretrained(FOLDER)
show(again.config.id2label)
show(type(again).__name__)

# %% one number, and several classes at once
one = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1)
one.score.weight.data[:] = 0.01
show(one(**batch, labels=batch["input_ids"][:, 0] * 0.5).loss.item())
several = AutoModelForSequenceClassification.from_pretrained(
    MODEL, num_labels=2, problem_type="multi_label_classification"
)
several.score.weight.data[0] = 0.02
several.score.weight.data[1] = -0.01
show(several(**batch, labels=(batch["input_ids"][:, :2] % 2) * 1.0).loss.item())

# %% the class by its name
own = GPT2ForSequenceClassification.from_pretrained(MODEL, num_labels=3)
own.score.weight.data[:] = model.score.weight.data
show(own(**batch).logits)

# %% several rows without a pad token
model.config.pad_token_id = None
try:
    model(**batch)
except ValueError as error:
    show(type(error).__name__)
show(model(input_ids=batch["input_ids"][:1]).logits)

# %% an adapter: what is trained
model = get_peft_model(model, config)
model.print_trainable_parameters()
show(model.get_nb_trainable_parameters())
show(isinstance(model, PeftModelForSequenceClassification))
show(sorted(config.modules_to_save))
show(sorted(name for name, p in model.named_parameters() if p.requires_grad and "score" in name))
model(**batch, labels=labels).loss.backward()
show(model.base_model.model.score.modules_to_save["default"].weight.grad)

# %% an adapter: merged, saved, loaded
model = get_peft_model(model, config)
head = model.base_model.model.score.modules_to_save["default"]
head.weight.data[0] = 0.3
logits = model(**batch).logits
show(logits)
with model.disable_adapter():
    show(model(**batch).logits)
model.save_pretrained(FOLDER)
base = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=3)
loaded = PeftModel.from_pretrained(base, FOLDER)
show(loaded(**batch).logits)
show(type(loaded).__name__)
show(loaded.peft_config["default"].task_type == TaskType.SEQ_CLS)
merged = model.merge_and_unload()
show(type(merged).__name__)
show(merged(**batch).logits)
show(merged.score.weight)
