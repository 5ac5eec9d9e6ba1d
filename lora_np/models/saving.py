"""Transformers' keywords of `save_pretrained`: why each means nothing here."""

from ..keywords import Unused

FOR_SAVING = {
    "is_main_process": Unused(None),
    "state_dict": Unused("the weights that the model has are written", ()),
    "push_to_hub": Unused("nothing is uploaded from here"),
    "max_shard_size": Unused(),  # one file, of any size
    "safe_serialization": Unused("that is a pickle, which runs code when it is read; safetensors are written", (True,)),
    "variant": Unused("there is one model.safetensors in a folder", ()),
    "token": Unused(),
    "save_peft_format": Unused(),
    "save_original_format": Unused(),
    "distributed_checkpoint": Unused("one process writes the files"),
}
