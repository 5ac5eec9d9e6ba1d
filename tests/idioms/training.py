import json
import shutil
from pathlib import Path

from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

tokenizer = AutoTokenizer.from_pretrained(MODEL)
TEXTS = ["Hello world", "How low is the rank?", "low-rank world!", "Ein Wort, zwei Wörter"]
rows = [tokenizer(text, truncation=True, max_length=16) for text in TEXTS]

# %% batches for language modelling
batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)(rows)
show(batch)
show(batch["labels"].shape[1])
show(DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm=False, pad_to_multiple_of=8)(rows[:2]))

# %% batches with labels of their own
features = [{**row, "labels": row["input_ids"][1:]} for row in rows]
show(DataCollatorForSeq2Seq(tokenizer, return_tensors="pt", padding=True)(features))
show(DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=8, return_tensors="pt")(features[:2])["labels"])

# %% Trainer
base = Path(shutil.copytree(MODEL, FOLDER + "/base"))
config = json.loads((base / "config.json").read_text())
no_dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}  # its numbers are each library's own
(base / "config.json").write_text(json.dumps({**config, **no_dropout}))
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), ADAPTER, is_trainable=True)
features = [{**row, "labels": [-100, *row["input_ids"][1:]]} for row in rows]
trainer = Trainer(
    model=model,
    train_dataset=features,
    eval_dataset=features,
    args=TrainingArguments(
        output_dir=FOLDER + "/out",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=6,
        warmup_steps=2,
        learning_rate=2e-2,
        lr_scheduler_type="linear",
        adam_beta2=0.99,
        max_grad_norm=0.5,
        logging_steps=1,
        save_strategy="no",
        optim="adamw_torch",
        report_to="none",
    ),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
)
show(trainer.evaluate()["eval_loss"])
output = trainer.train()
show(output.global_step)
show(trainer.state.global_step)
show(output.training_loss)
show([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
show(trainer.evaluate()["eval_loss"])
trainer.save_model(FOLDER + "/adapter")
saved = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), FOLDER + "/adapter")
show(saved(**tokenizer(TEXTS[1], return_tensors="pt")).logits.detach().numpy())
