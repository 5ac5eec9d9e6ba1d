"""The parts of a joint projection whose outputs do not simply stand one after another."""

from collections.abc import Mapping


class Parts(dict[str, int]):
    """{name: width} of a layer's parts, as in `Linear.parts`, each of them cut into `groups` pieces.

    The outputs are the first piece of every part, then the second of every part, ...: in GPT-NeoX, each head's query,
    key and value. All parts have one width.
    """

    def __init__(self, widths: Mapping[str, int], groups: int) -> None:
        super().__init__(widths)
        self.groups = groups
