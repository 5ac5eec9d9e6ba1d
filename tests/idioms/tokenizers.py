from transformers import AddedToken, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(MODEL)
TEXTS = ["Hello world", "low rank", "How low is the rank?"]
CHAT = [
    {"role": "system", "content": "Be low."},
    {"role": "user", "content": "Hello world"},
    {"role": "assistant", "content": "How low is the rank?"},
]
TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
    "{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)

# %% a text is a list of ids
enc = tokenizer("Hello world")
show(len(enc["input_ids"]))
show(enc["input_ids"])
show(enc.input_ids)
show(enc.attention_mask)
show(list(enc.keys()))
show(dict(**enc))
show("input_ids" in enc)

# %% several texts are ragged rows
show(tokenizer(TEXTS))
show([len(row) for row in tokenizer(TEXTS)["input_ids"]])
show(tokenizer(tuple(TEXTS)))

# %% padding
tokenizer.padding_side = "left"
show(tokenizer(TEXTS, padding=True))
show(tokenizer(TEXTS, padding="longest", padding_side="right"))
show(tokenizer(TEXTS, padding="max_length", max_length=12))
show(tokenizer(TEXTS, padding=True, pad_to_multiple_of=8, return_tensors="pt"))
show(tokenizer(TEXTS, padding="do_not_pad"))

# %% truncation
show(tokenizer(TEXTS, truncation=True, max_length=3))
show(tokenizer(TEXTS, max_length=3))
show(tokenizer(TEXTS, truncation="longest_first", max_length=3, padding=True))
show(tokenizer(TEXTS, truncation=True, max_length=5, padding="max_length", return_tensors="pt").input_ids)
tokenizer.truncation_side = "left"
show(tokenizer(TEXTS, truncation=True, max_length=3))
show(tokenizer("Hello world", truncation=True))
show(tokenizer.encode("How low is the rank?", truncation=True, max_length=2))

# %% the model's own length
tokenizer.model_max_length = 4
show(tokenizer(TEXTS, truncation=True))
show(tokenizer(TEXTS, padding="max_length", truncation=True))
show(tokenizer.model_max_length)

# %% arrays
inputs = tokenizer("Hello world", return_tensors="pt")
show(inputs)
show(inputs["input_ids"].shape[1])
show(list(inputs["input_ids"].shape))
show(tokenizer(["low", "low"], return_tensors="pt").to("cpu"))

# %% what else a call returns
show(tokenizer(TEXTS, return_attention_mask=False))
show(tokenizer(TEXTS, return_offsets_mapping=True))
show(tokenizer(TEXTS, return_special_tokens_mask=True, padding=True))
show(tokenizer(TEXTS, return_length=True))
show(tokenizer("low", return_length=True))
show(tokenizer(TEXTS, add_special_tokens=False, verbose=False))

# %% encode and decode
ids = tokenizer.encode("Hello world")
show(ids)
show(tokenizer.encode("Hello world", add_special_tokens=False))
show(tokenizer.encode("Hello world", return_tensors="pt"))
show(tokenizer.decode(ids))
show(tokenizer.decode(tokenizer("Hello world", return_tensors="pt")["input_ids"][0]))
show(tokenizer.decode(tokenizer("Hello world", return_tensors="pt")["input_ids"]))
show(tokenizer.decode([1, *ids, 2], skip_special_tokens=True))
show(tokenizer.decode(ids[0]))
show(tokenizer.decode([ids, ids[:1]]))
show(tokenizer.batch_decode(tokenizer(TEXTS, padding=True, return_tensors="pt")["input_ids"], skip_special_tokens=True))
show(tokenizer.batch_decode(tokenizer(TEXTS)["input_ids"]))
show(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
show(tokenizer.batch_decode([]))

# %% tokens
show(tokenizer.tokenize("Hello world"))
show(tokenizer.convert_ids_to_tokens(tokenizer("Hello world")["input_ids"]))
show(tokenizer.convert_ids_to_tokens(5))
show(tokenizer.convert_ids_to_tokens([1, 5, 2], skip_special_tokens=True))
show(tokenizer.convert_tokens_to_ids(tokenizer.tokenize("How low")))
show(tokenizer.convert_tokens_to_ids("</s>"))
show(tokenizer.convert_tokens_to_ids("nothing of the kind"))
show(tokenizer.convert_tokens_to_string(tokenizer.tokenize("How low is the rank?")))

# %% the vocabulary
show(len(tokenizer))
show(tokenizer.vocab_size)
show(tokenizer.get_vocab())
show(tokenizer.vocab["</s>"])
show(tokenizer.get_added_vocab())
show(tokenizer.num_special_tokens_to_add())
show(tokenizer.is_fast)
show(sorted(tokenizer.added_tokens_decoder))

# %% special tokens
show(tokenizer.special_tokens_map)
show(tokenizer.all_special_tokens)
show(tokenizer.all_special_ids)
show([tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token])
show([tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id])
show([tokenizer.cls_token, tokenizer.sep_token_id, tokenizer.mask_token])
show(tokenizer.get_special_tokens_mask([1, 70, 2], already_has_special_tokens=True))

# %% the end of text pads
tokenizer.pad_token = tokenizer.eos_token
show(tokenizer.pad_token_id)
show(tokenizer(TEXTS, padding=True))
tokenizer.pad_token_id = 0
show(tokenizer.pad_token)
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
show(tokenizer.all_special_tokens)

# %% adding tokens
show(tokenizer.add_tokens(["<think>", "Zürich"]))
show(tokenizer.add_tokens("<think>"))
show(tokenizer.add_tokens(["<a>", "<b>"], special_tokens=True))
show(len(tokenizer))
show(tokenizer.vocab_size)
show(tokenizer("Hello <think> Zürich <a>"))
show(tokenizer.decode(tokenizer.encode("low<think><a>rank"), skip_special_tokens=True))
show(tokenizer.get_added_vocab())

# %% adding special tokens
show(tokenizer.add_special_tokens({"pad_token": "[PAD]"}))
show(tokenizer.add_special_tokens({"pad_token": "[PAD]", "cls_token": "<CLS>"}))
show(tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}))
show(tokenizer.pad_token_id)
show(len(tokenizer))
show(tokenizer.special_tokens_map)
show(tokenizer.all_special_tokens)
show(tokenizer(["low", "Hello world"], padding=True))
show(tokenizer.decode(tokenizer.encode("<|im_start|>low[PAD]"), skip_special_tokens=True))

# %% tokens that are cut out by rules
rules = [AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True), AddedToken("low", single_word=True)]
show(tokenizer.add_tokens(rules))
show(tokenizer("a <left> b <right> c low lower"))
show(tokenizer.add_special_tokens({"eos_token": AddedToken("<E>", special=True)}))
show([tokenizer.eos_token, tokenizer.eos_token_id])
show(tokenizer.decode(tokenizer.encode("a <left> b <E>"), skip_special_tokens=True))

# %% tokens that are named where it is loaded
loaded = AutoTokenizer.from_pretrained(MODEL, pad_token="[PAD]", extra_special_tokens=["<|im_end|>"])
show([loaded.pad_token_id, len(loaded)])
show(loaded(["low<|im_end|>", "Hello low world"], padding=True))
show(AutoTokenizer.from_pretrained(MODEL, additional_special_tokens=["<zz>"])("a<zz>b"))
show(AutoTokenizer.from_pretrained(MODEL, pad_token="<s>", bos_token=None).special_tokens_map)

# %% begin and end of every text
for options in ({"add_bos_token": True}, {"add_eos_token": True}, {"add_bos_token": True, "add_eos_token": True}):
    loaded = AutoTokenizer.from_pretrained(MODEL, **options)
    show(loaded(["low", "Hello low world"], padding=True))
    show([loaded.add_bos_token, loaded.add_eos_token, loaded.num_special_tokens_to_add()])
    show(loaded("Hello low world", truncation=True, max_length=3))
tokenizer.add_bos_token = True
show(tokenizer("low"))
tokenizer.add_eos_token = True
show(tokenizer("low"))
tokenizer.add_bos_token = False
show(tokenizer("low"))
tokenizer.save_pretrained(FOLDER)
show(AutoTokenizer.from_pretrained(FOLDER)("low"))

# %% a batch of encodings
encodings = [tokenizer(text) for text in TEXTS]
show(tokenizer.pad(encodings))
show(tokenizer.pad(encodings, return_tensors="pt"))
show(tokenizer.pad(tokenizer(TEXTS), padding="max_length", max_length=16))
show(tokenizer.pad({"input_ids": [[5, 6], [7]]}))
show(tokenizer.pad({"input_ids": [5, 6]}, padding="max_length", max_length=4))
show(tokenizer.pad([{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [5], "labels": [5]}]))
show(tokenizer.pad(encodings, pad_to_multiple_of=8, padding_side="left"))
show(tokenizer.pad([{"input_ids": [5, 6]}, {"input_ids": [5]}], return_attention_mask=False))
show(tokenizer.pad([{"input_ids": [5, 6], "label": 1}, {"input_ids": [5], "label": 0}], return_tensors="pt"))

# %% saving and loading
tokenizer.add_tokens(["<think>"])
tokenizer.add_special_tokens({"pad_token": "[PAD]"})
tokenizer.model_max_length = 32
tokenizer.chat_template = TEMPLATE
tokenizer.save_pretrained(FOLDER)
again = AutoTokenizer.from_pretrained(FOLDER)
show(again(["low<think>", "Hello world"], padding=True))
show([again.model_max_length, again.pad_token, len(again), again.chat_template])
show(again.special_tokens_map)

# %% a chat
tokenizer.chat_template = TEMPLATE
show(tokenizer.apply_chat_template(CHAT, tokenize=False))
show(tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True))
show(tokenizer.apply_chat_template(CHAT))
show(tokenizer.apply_chat_template(CHAT, return_dict=False))
show(tokenizer.apply_chat_template(CHAT, return_dict=True, return_tensors="pt"))
show(tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True, return_tensors="pt")["input_ids"].shape[1])
show(tokenizer.apply_chat_template(CHAT, tokenize=False, continue_final_message=True))
show(tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True))
show(tokenizer.apply_chat_template(CHAT, truncation=True, max_length=7))
show(
    tokenizer.apply_chat_template(
        CHAT, tokenize=False, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}"
    )
)

# %% a batch of chats
tokenizer.chat_template = TEMPLATE
tokenizer.padding_side = "left"
chats = [CHAT, CHAT[:2]]
show(tokenizer.apply_chat_template(chats, tokenize=False))
show(tokenizer.apply_chat_template(chats))
show(
    tokenizer.apply_chat_template(
        chats, padding=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
)
show(tokenizer.apply_chat_template(chats, padding=True, return_dict=False, return_tensors="pt"))
show(tokenizer.apply_chat_template([CHAT[:2], CHAT[1:2]], tokenize=False, continue_final_message=True))
show(tokenizer.apply_chat_template(chats, padding=True, return_dict=True, return_assistant_tokens_mask=False))
