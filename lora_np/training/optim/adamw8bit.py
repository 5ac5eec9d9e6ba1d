"""AdamW with its state in 8 bits: a quarter of the memory, where the state is what fills it."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...autograd import Tensor
from ...expect import expect_whole
from ..protocols import Array
from .adamw import AdamW
from .dynamic8bit import BLOCK, dequantize_blockwise, quantize_blockwise
from .optimizer import Forms, Group, Optimizer, State


class AdamW8bit(AdamW):
    r"""AdamW whose m and v are kept in 8 bits a number. (Dettmers et al., 2021; bitsandbytes' class of this name.)

    A step turns m and v back into float32, takes AdamW's step with them, and quantises what they have become: in
    blocks of 256, m with a sign and v without (`dynamic8bit.py`). They take 2·(1 + 4/256) bytes a number, where AdamW's
    take 8 (under LoRA that is small already: this is for weights that are trained whole). What is computed differs
    from AdamW by the rounding of m and v; a step takes about four times as long on a CPU.

    min_8bit_size   parameters with fewer numbers keep m and v in float32: their memory is nothing
    optim_bits, percentile_clipping, block_wise, is_paged, args   bitsandbytes'; other values than its usual ones are
                    a ValueError
    The paper also asks that trained embeddings keep 32 bits, for their gradients are uneven: `keep_32bit(params)`.
    """

    state_names = ("step", "m", "v", "m_absmax", "v_absmax")
    recordable = False

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        optim_bits: int = 8,
        args: Any = None,
        min_8bit_size: int = 4096,
        percentile_clipping: int = 100,
        block_wise: bool = True,
        is_paged: bool = False,
        **options: Any,
    ) -> None:
        expect_whole(min_8bit_size, "min_8bit_size", 0)
        given = {"args": args, "percentile_clipping": percentile_clipping, "is_paged": is_paged}
        for name, usual in {"args": None, "percentile_clipping": 100, "is_paged": False}.items():
            if given[name] != usual:
                raise ValueError(f"{name}={given[name]!r} is not possible here: leave it at {usual!r}")
        if optim_bits not in (8, 32):  # bitsandbytes has 32 as the usual value, and its class of this name ignores it
            raise ValueError(f"optim_bits={optim_bits!r}: the state is in 8 bits; AdamW has it in 32")
        if not block_wise:
            raise ValueError("block_wise=False is not possible here: one scale for all numbers loses the small ones")
        self.min_8bit_size, self.in_32_bits = min_8bit_size, set[int]()
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad=amsgrad, **options)

    def keep_32bit(self, params: Iterable[Tensor]) -> None:
        """Have the state of these parameters in float32, as AdamW does. To be said before the first step."""
        chosen = {id(p) for p in params}
        if chosen & set(self.state):
            raise ValueError("keep_32bit comes before the first step: a parameter among these has a state already")
        self.in_32_bits |= chosen

    def is_8bit(self, p: Tensor) -> bool:
        """Is this parameter's state in 8 bits?"""
        return p.size >= max(1, self.min_8bit_size) and id(p) not in self.in_32_bits

    def state_forms(self, p: Tensor, group: Group) -> Forms:
        if not self.is_8bit(p):
            return dict.fromkeys(AdamW.state_names, (p.shape, np.result_type(p.dtype, np.float32)))
        whole, scales = (p.shape, np.dtype(np.uint8)), ((-(-p.size // BLOCK),), np.dtype(np.float32))
        return {"step": ((), int), "m": whole, "v": whole, "m_absmax": scales, "v_absmax": scales}

    def update_group(self, params: list[Tensor], group: Group) -> None:
        """One after another: AdamW's kernel for all at once reads float32."""
        Optimizer.update_group(self, params, group)

    def update(self, p: Tensor, grad: Array, state: State, group: Group) -> None:
        """A parameter in 16 bits is computed with in float32, as in bitsandbytes, and rounded once."""
        wide = np.result_type(p.dtype, np.float32)
        exact = p if p.dtype == wide else Tensor(p.data.astype(wide))
        self._step(exact, grad.astype(wide, copy=False), state, group, self.is_8bit(p))
        if exact is not p:
            p.data[...] = exact.data

    def _step(self, p: Tensor, grad: Array, state: State, group: Group, in_8_bits: bool) -> None:
        if not in_8_bits:
            return super().update(p, grad, state, group)
        whole: State = {}
        if state:
            m = dequantize_blockwise(state["m"], state["m_absmax"]).astype(p.dtype, copy=False)
            v = dequantize_blockwise(state["v"], state["v_absmax"], signed=False).astype(p.dtype, copy=False)
            whole = {"step": state["step"], "m": m, "v": v}
        super().update(p, grad, whole, group)
        state["step"] = whole["step"]
        state["m"], state["m_absmax"] = quantize_blockwise(whole["m"])
        state["v"], state["v_absmax"] = quantize_blockwise(whole["v"], signed=False)
        return None
