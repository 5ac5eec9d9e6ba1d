"""An adapter that is not there: one error, which is what both of PEFT's are."""

import copy
import pickle

import pytest
from lora_helpers import peft_model, some_ids

from lora_np import get_peft_model_state_dict, hotswap_adapter
from lora_np.lora import UnknownAdapterError

MESSAGE = "no adapter 'x'; there are 'default'"
USES = {
    "set_adapter": lambda model: model.set_adapter("x"),
    "delete_adapter": lambda model: model.delete_adapter("x"),
    "rename_adapter": lambda model: model.rename_adapter("x", "y"),
    "set_scale": lambda model: model.set_scale("x", 2),
    "set_requires_grad": lambda model: model.set_requires_grad("x"),
    "merge_adapter": lambda model: model.merge_adapter(["x"]),
    "merge_and_unload": lambda model: model.merge_and_unload(adapter_names=["x"]),
    "add_weighted_adapter": lambda model: model.add_weighted_adapter(["default", "x"], [1.0, 1.0], "both"),
    "save_pretrained": lambda model: model.save_pretrained("nowhere", selected_adapters=["x"]),
    "forward": lambda model: model(some_ids(model.config), adapter_names=["x", "default"]),
    "state": lambda model: get_peft_model_state_dict(model, adapter_name="x"),
    "hotswap": lambda model: hotswap_adapter(model, "nowhere", "x"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", [KeyError, ValueError])
def test_every_use_of_it(use, kind):
    with pytest.raises(kind) as caught:
        USES[use](peft_model(["c_attn"]))
    assert isinstance(caught.value, UnknownAdapterError)
    assert str(caught.value) == MESSAGE


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_copy_says_the_same(copied):
    assert str(copied(UnknownAdapterError("x", ["default"]))) == MESSAGE
