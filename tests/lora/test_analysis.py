"""Counts of what is frozen and what is trained."""

import numpy as np
from lora_helpers import tiny_model

from lora_np import LoraConfig, get_peft_model
from lora_np.lora.analysis import format_parameter_table, parameter_table


def adapted(**settings):
    return get_peft_model(tiny_model(), LoraConfig(r=2, fan_in_fan_out=True, **settings))


def test_equal_layers_of_all_blocks_are_one_row():
    model = adapted(target_modules=["c_attn"])
    rows = {part: row for part, *row in parameter_table(model)}
    config = model.config
    C, blocks = config.n_embd, config.n_layer
    assert rows["transformer.h.*.attn.c_attn"] == [blocks, blocks * 3 * C * (C + 1), blocks * 2 * (C + 3 * C)]
    assert rows["transformer.wte"] == [1, config.vocab_size * C, 0]
    assert rows["transformer.h.*.ln_1"] == [blocks, blocks * 2 * C, 0]


def test_the_rows_add_up_to_what_is_trained_and_what_is_not():
    for settings in ({"target_modules": "all-linear"}, {"bias": "all"}, {"bias": "lora_only"}):
        model = adapted(**settings)
        trainable, total = model.get_nb_trainable_parameters()
        counts = np.array([row[2:] for row in parameter_table(model)])
        assert counts.sum(axis=0).tolist() == [total - trainable, trainable]


def test_the_table_as_text_has_a_line_for_each_part_and_one_for_all():
    model = adapted(target_modules=["c_fc"])
    lines = format_parameter_table(model).splitlines()
    assert len(lines) == len(parameter_table(model)) + 2
    trainable, total = model.get_nb_trainable_parameters()
    assert lines[-1].split() == ["all", f"{total - trainable:,}", f"{trainable:,}"]
    assert len({len(line) for line in lines}) == 1
