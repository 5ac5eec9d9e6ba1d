import json
import shutil
from pathlib import Path

import numpy as np
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    EarlyStoppingCallback,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

tokenizer = AutoTokenizer.from_pretrained(MODEL)
TEXTS = ["Hello world", "How low is the rank?", "low-rank world!", "Ein Wort, zwei Wörter"]
rows = [tokenizer(text, truncation=True, max_length=16) for text in TEXTS]
predicted = [{**row, "labels": [-100, *row["input_ids"][1:]]} for row in rows]
base = Path(shutil.copytree(MODEL, FOLDER + "/base"))
config = json.loads((base / "config.json").read_text())
no_dropout = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}  # its numbers are each library's own
(base / "config.json").write_text(json.dumps({**config, **no_dropout}))

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
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(str(base)), ADAPTER, is_trainable=True)
trainer = Trainer(
    model=model,
    train_dataset=predicted,
    eval_dataset=predicted,
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


# %% stopping early, and a callback of one's own
class Watching(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        show(state.global_step)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if state.global_step:
            show(metrics["eval_loss"])


trainer = Trainer(
    model=AutoModelForCausalLM.from_pretrained(str(base)),
    args=TrainingArguments(
        output_dir=FOLDER + "/early",
        per_device_train_batch_size=3,
        max_steps=12,
        learning_rate=5e-2,
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        report_to="none",
    ),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
    train_dataset=predicted[1:],
    eval_dataset=predicted[:1],
    callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
)
trainer.add_callback(Watching)
trainer.train()
show([trainer.state.global_step, trainer.state.best_global_step, trainer.state.best_metric])
show(trainer.evaluate()["eval_loss"])

# %% rows one behind the other
show({k: np.asarray(v).tolist() for k, v in DataCollatorWithFlattening(return_seq_idx=True)(rows[:3]).items()})

# %% what is measured besides the loss
classifier = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=2)
classifier.score.weight.data[0] = 0.02
classifier.score.weight.data[1] = -0.01
questions = [tokenizer(text, "low rank", truncation=True, max_length=12) for text in TEXTS]
labelled = [{**row, "label": i % 2} for i, row in enumerate(questions)]


def compute_metrics(found: EvalPrediction):
    logits, labels = found
    return {"accuracy": float((logits.argmax(-1) == labels).mean()), "eval_rows": len(found.label_ids)}


trainer = Trainer(
    model=classifier,
    args=TrainingArguments(
        output_dir=FOLDER + "/classes",
        per_device_train_batch_size=4,
        per_device_eval_batch_size=3,
        max_steps=3,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=labelled,
    eval_dataset=labelled,
    processing_class=tokenizer,
    compute_metrics=compute_metrics,
)
show({name: trainer.evaluate()[name] for name in ("eval_loss", "eval_accuracy", "eval_rows")})
trainer.train()
logged = [entry for entry in trainer.state.log_history if entry["step"] == 3 and "eval_loss" in entry]
show([logged[0][name] for name in ("eval_loss", "eval_accuracy", "eval_rows")])
output = trainer.predict(labelled)
show(output.predictions)
show(output.label_ids)
show([output.metrics[name] for name in ("test_loss", "test_accuracy")])
show(trainer.predict(questions).predictions)
show(trainer.predict(questions).label_ids)


# %% a language model's answers, and what is kept of them
def kept(logits, labels):
    return logits.argmax(-1)


trainer = Trainer(
    model=AutoModelForCausalLM.from_pretrained(str(base)),
    args=TrainingArguments(output_dir=FOLDER + "/words", report_to="none"),
    eval_dataset=predicted,
    data_collator=DataCollatorForSeq2Seq(tokenizer),
    compute_metrics=lambda found: {"right": float((found.predictions[:, :-1] == found.label_ids[:, 1:]).mean())},
    preprocess_logits_for_metrics=kept,
)
show({name: trainer.evaluate()[name] for name in ("eval_loss", "eval_right")})
show(trainer.predict(predicted).predictions.shape)


# %% several data sets, and several things kept of the logits
def best_two(logits, labels):
    return logits.argmax(dim=-1), logits.max(dim=-1)[0]


collator = DataCollatorForSeq2Seq(tokenizer)
model = AutoModelForCausalLM.from_pretrained(str(base))
args = TrainingArguments(output_dir=FOLDER + "/several", report_to="none")
trainer = Trainer(model, args, collator, eval_dataset={"short": predicted[:2], "long": predicted[2:]})
found = trainer.evaluate()
show({name: found[name] for name in ("eval_short_loss", "eval_long_loss")})
show(trainer.evaluate("long")["eval_loss"])
trainer = Trainer(model, args, collator, preprocess_logits_for_metrics=best_two)
show(list(trainer.predict(predicted).predictions))
show([trainer.predict(rows).label_ids, trainer.predict(rows).metrics.get("test_loss")])

# %% rows that were filled up or packed before
tokenizer.pad_token = tokenizer.eos_token
filled = [dict(tokenizer(text, padding="max_length", max_length=12)) for text in TEXTS]
filled = [{**row, "labels": [-100, *row["input_ids"][1:]]} for row in filled]  # padding is learnt, too
packed = [{"input_ids": [260, 90, 16, 271, 273, 4], "labels": [-100, 90, 16, -100, 273, 4]}]
for dataset in (filled, [{**row, "position_ids": [0, 1, 2, 0, 1, 2]} for row in packed]):
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(str(base)),
        args=TrainingArguments(
            output_dir=FOLDER + "/rows",
            max_steps=2,
            logging_steps=1,
            eval_strategy="no",
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=dataset,
        eval_dataset=dataset,
    )
    show(trainer.evaluate()["eval_loss"])
    trainer.train()
    show(trainer.state.log_history[0]["loss"])

# %% labels of whole rows, by their other name
for labels in ([0, 1, 1, 0], [0.5, 1.5, -1.0, 0.25], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]):
    classifier = AutoModelForSequenceClassification.from_pretrained(
        str(base), num_labels=1 if isinstance(labels[0], float) else 2
    )
    for i in range(classifier.config.num_labels):
        classifier.score.weight.data[i] = 0.02 - 0.03 * i
    labelled = [{**row, "labels": label} for row, label in zip(rows, labels, strict=True)]
    args = TrainingArguments(output_dir=FOLDER + "/labels", report_to="none")
    trainer = Trainer(classifier, args, eval_dataset=labelled, processing_class=tokenizer)
    show(trainer.evaluate()["eval_loss"])
    show(trainer.predict(labelled).label_ids)
