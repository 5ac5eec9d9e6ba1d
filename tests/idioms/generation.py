import contextlib
import io
from threading import Thread

from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    MaxTimeCriteria,
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
    TextStreamer,
)

tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = AutoModelForCausalLM.from_pretrained(MODEL)
inputs = tokenizer("the low moon", return_tensors="pt")

# %% what a tokenizer returns
outputs = model.generate(**inputs, max_new_tokens=10)
show(outputs)
show(tokenizer.decode(outputs[0], skip_special_tokens=True))

# %% ids by name, by place, and a mask
show(model.generate(input_ids=inputs["input_ids"], max_new_tokens=5, do_sample=False))
show(model.generate(inputs=inputs.input_ids, max_new_tokens=5))
show(model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=5))

# %% a batch, padded on the left
tokenizer.padding_side = "left"
batch = tokenizer(["low", "the low moon and the new"], return_tensors="pt", padding=True)
show(model.generate(**batch, max_new_tokens=8))
show(model.generate(batch["input_ids"], max_new_tokens=8))  # the mask is read off the padding
show(model.generate(**batch, max_new_tokens=8, num_beams=3, num_return_sequences=2))

# %% nothing to continue
show(model.generate(max_new_tokens=5))

# %% how long
length = inputs["input_ids"].shape[1]
show(model.generate(**inputs, max_length=length + 4))
show(model.generate(**inputs).shape)
show(model.generate(**inputs, max_new_tokens=9, min_new_tokens=9, eos_token_id=4).shape)
show(model.generate(**inputs, max_length=length + 6, min_length=length + 5, eos_token_id=[4, 5, 6, 7, 8, 9]).shape)

# %% an end token, several, none
whole = model.generate(**inputs, max_new_tokens=12, eos_token_id=None)
show(whole)
show(model.generate(**inputs, max_new_tokens=12, eos_token_id=int(whole[0, -4])))
show(model.generate(**inputs, max_new_tokens=12, eos_token_id=[int(whole[0, -1]), int(whole[0, -7])], pad_token_id=0))

# %% stop strings
text = tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0])
for stop in (text[-6:-3], [text[-10:-8], text[-5:-3]], text[-4]):
    show(model.generate(**inputs, max_new_tokens=30, stop_strings=stop, tokenizer=tokenizer))
    show(model.generate(**inputs, max_new_tokens=12, stop_strings=stop, tokenizer=tokenizer, num_beams=2))

# %% beams
show(model.generate(**inputs, num_beams=4, max_new_tokens=8, early_stopping=True))
show(model.generate(**inputs, num_beams=4, max_new_tokens=8, length_penalty=2.0, early_stopping="never"))
show(model.generate(**inputs, num_beams=5, num_return_sequences=3, max_new_tokens=8, no_repeat_ngram_size=2))

# %% penalties and constraints
show(model.generate(**inputs, max_new_tokens=10, repetition_penalty=1.5))
show(model.generate(**inputs, max_new_tokens=10, no_repeat_ngram_size=2))
show(model.generate(**inputs, max_new_tokens=10, bad_words_ids=[[10], [11, 12]]))
show(model.generate(**inputs, max_new_tokens=10, suppress_tokens=[10, 11, 12, 13], begin_suppress_tokens=[14, 15]))
show(model.generate(**inputs, max_new_tokens=10, sequence_bias={(10,): 5.0, (11, 12): -5.0}))
show(model.generate(**inputs, max_new_tokens=6, forced_eos_token_id=2))
show(model.generate(**inputs, max_new_tokens=9, exponential_decay_length_penalty=(3, 1.5), renormalize_logits=True))

# %% a function says which tokens are allowed
allowed = {0: [20, 21, 22], 1: [30, 31]}
batch = tokenizer(["low", "new"], return_tensors="pt", padding=True, padding_side="left")
show(model.generate(**batch, max_new_tokens=6, prefix_allowed_tokens_fn=lambda row, ids: allowed[row]))
show(model.generate(**batch, max_new_tokens=6, num_beams=2, prefix_allowed_tokens_fn=lambda row, ids: allowed[row]))

# %% sampling that leaves one token
for options in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}, {"top_k": 0, "top_p": 0.0}):
    show(model.generate(**inputs, max_new_tokens=6, do_sample=True, **options))
show(model.generate(**inputs, max_new_tokens=6, do_sample=True, num_return_sequences=3).shape)

# %% scores
out = model.generate(**inputs, max_new_tokens=4, return_dict_in_generate=True, output_scores=True, output_logits=True)
show(out.sequences)
show(out["sequences"])
show(len(out.scores))
show(out.scores[0])
show(out.logits[-1])
show(model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True))

# %% scores of beams
out = model.generate(**inputs, num_beams=3, max_new_tokens=4, return_dict_in_generate=True, output_scores=True)
show(out.sequences_scores)
show(out.beam_indices)
show(out.scores[1])
show(model.compute_transition_scores(out.sequences, out.scores, out.beam_indices))

# %% a generation config
config = GenerationConfig(max_new_tokens=6, num_beams=2, repetition_penalty=1.2)
show(model.generate(**inputs, generation_config=config))
show(model.generate(inputs["input_ids"], config))
config.save_pretrained(FOLDER)
again = GenerationConfig.from_pretrained(FOLDER)
show([again.max_new_tokens, again.num_beams, again.temperature, again == config])
show(again.update(max_new_tokens=3, nothing=1))
show(again.to_dict()["max_new_tokens"])
show(set(again.to_dict()) > {"top_k", "max_length", "eos_token_id"})

# %% the model's own generation config
show([model.generation_config.bos_token_id, model.generation_config.eos_token_id, model.generation_config.pad_token_id])
model.generation_config.max_new_tokens = 4
model.generation_config.repetition_penalty = 1.4
show(model.generate(**inputs))
model.save_pretrained(FOLDER)
show(AutoModelForCausalLM.from_pretrained(FOLDER).generate(**inputs))


# %% processors and criteria of one's own
class Never(LogitsProcessor):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        scores[:, self.token] = -float("inf")
        return scores


class After(StoppingCriteria):
    def __init__(self, length):
        self.length = length

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.shape[1] >= self.length


first = int(model.generate(**inputs, max_new_tokens=1)[0, -1])
show(model.generate(**inputs, max_new_tokens=5, logits_processor=LogitsProcessorList([Never(first)])))
show(model.generate(**inputs, max_new_tokens=9, stopping_criteria=StoppingCriteriaList([After(6)])))

# %% processors and criteria by their names
processors = LogitsProcessorList(
    [
        MinLengthLogitsProcessor(12, eos_token_id=[4, 5, 6, 7]),
        RepetitionPenaltyLogitsProcessor(penalty=1.2),
        NoRepeatNGramLogitsProcessor(2),
    ]
)
criteria = StoppingCriteriaList([MaxLengthCriteria(max_length=14), MaxTimeCriteria(max_time=600.0)])
options = {"max_new_tokens": 20, "eos_token_id": [4, 5, 6, 7]}
show(model.generate(**inputs, logits_processor=processors, stopping_criteria=criteria, **options))

# %% a dictionary of options
settings = {
    "max_new_tokens": 8,
    "num_beams": 3,
    "early_stopping": True,
    "no_repeat_ngram_size": 2,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_scores": True,
}
settings["pad_token_id"] = tokenizer.eos_token_id
out = model.generate(**inputs, **settings)
show(tokenizer.batch_decode(out.sequences, skip_special_tokens=True))
show(list(out.keys())[:2])
show(out[0])

# %% the tokens that were added
out = model.generate(**inputs, max_new_tokens=6)
new = out[:, inputs["input_ids"].shape[1] :]
show(new)
show(tokenizer.decode(out[0][len(inputs["input_ids"][0]) :], skip_special_tokens=True))
show(out.shape[1] - inputs["input_ids"].shape[-1])

# %% a streamer in another thread
streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True)
thread = Thread(target=model.generate, kwargs=dict(inputs, streamer=streamer, max_new_tokens=12))
thread.start()
pieces = list(streamer)
thread.join()
show(pieces)
show("".join(pieces))

# %% a streamer that prints
for skip in (True, False):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        model.generate(**inputs, streamer=TextStreamer(tokenizer, skip_prompt=skip), max_new_tokens=12)
    show(printed.getvalue())

# %% with an adapter
model = PeftModel.from_pretrained(model, ADAPTER)
show(model.generate(**inputs, max_new_tokens=8))
show(model.generate(input_ids=inputs["input_ids"], max_new_tokens=8, num_beams=3))
with model.disable_adapter():
    show(model.generate(**inputs, max_new_tokens=8))

# %% an adapter for each row
model = PeftModel.from_pretrained(model, ADAPTER, adapter_name="one").eval()
batch = tokenizer(["the low moon"] * 2, return_tensors="pt")
show(model.generate(**batch, adapter_names=["one", "__base__"], max_new_tokens=8))
show(model.generate(**batch, adapter_names=["__base__", "one"], max_new_tokens=8, num_beams=3))
show(model.generate(**batch, adapter_names=["one", "one"], max_new_tokens=8, use_cache=False))

# %% what changes nothing here
show(model.generate(**inputs, max_new_tokens=5, synced_gpus=False, use_cache=True, cache_implementation=None))
