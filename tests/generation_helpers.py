"""What the tests of stop strings and of streamers share: one vocabulary, read by both libraries."""

from tokenizer_helpers import trained

from lora_np import AutoTokenizer


def both_tokenizers(folder):
    """(ours, Transformers') of one vocabulary, saved in `folder`."""
    from transformers import PreTrainedTokenizerFast

    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    theirs = PreTrainedTokenizerFast(tokenizer_object=trained(), **special)
    theirs.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder), theirs
