"""An adapter that is not there."""

from collections.abc import Iterable


class UnknownAdapterError(KeyError, ValueError):
    """There is no adapter of the name that was given. PEFT's own is now a KeyError and now a ValueError: it is both."""

    def __init__(self, name: object, known: Iterable[str] = ()) -> None:
        names = ", ".join(map(repr, known)) or "none"
        super().__init__(f"no adapter {name!r}; there are {names}")

    def __str__(self) -> str:  # a KeyError would put the sentence in quotes
        return str(self.args[0])

    def __reduce__(self):
        return _again, self.args


def _again(sentence):
    error = UnknownAdapterError("")
    error.args = (sentence,)
    return error


HAS_ADAPTERS = (
    "this model has adapters already: use add_adapter(name, config) on its PeftModel, or load_adapter(folder, name) "
    "for one in a folder; to begin anew, load the base again, or take peft_model.unload()"
)
