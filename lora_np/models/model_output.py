"""What every model returns can be asked for in Transformers' three ways: `out.logits`, `out["logits"]`, `out[1]`."""

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from ..autograd import Tensor


class ModelOutput(Mapping[str, Any]):
    """A mapping of those of its `names` that it has, which are attributes too. Abstract: a subclass says the names.

    `out[0]`, `out[:2]` and `to_tuple()` count what there is: with labels the loss comes first, without them the
    logits. `loss, logits = out` gives names, as in Transformers: unpack `out.to_tuple()`. To ask which names there are
    computes nothing.
    """

    names: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Is there such a part?"""
        return getattr(self, name) is not None

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """The shape of a part, None if it has none."""
        return getattr(getattr(self, name), "shape", None)

    def keys(self) -> KeysView[str]:
        """The names of what there is."""
        return dict.fromkeys(name for name in self.names if self.has(name)).keys()

    def values(self) -> ValuesView[Any]:
        """What there is."""
        return self._computed().values()

    def items(self) -> ItemsView[str, Any]:
        """(name, value) of what there is."""
        return self._computed().items()

    def _computed(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.keys()}

    def to_tuple(self) -> tuple[Any, ...]:
        """What there is, in order."""
        return tuple(self.values())

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            names = list(self.keys())[key]
            return getattr(self, names) if isinstance(names, str) else tuple(getattr(self, name) for name in names)
        if key not in self.keys():
            raise KeyError(f"this output has no {key!r}, it has {', '.join(self.keys())}")
        return getattr(self, key)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    __eq__, __hash__ = object.__eq__, object.__hash__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={self._text_of(name)}' for name in self.keys())})"

    def _text_of(self, name: str) -> str:
        shape = self.shape_of(name)
        if shape is None:
            return type(getattr(self, name)).__name__
        value = getattr(self, name) if shape == () else None
        return f"{value:.4f}" if isinstance(value, Tensor) else f"Tensor of shape {shape}"
