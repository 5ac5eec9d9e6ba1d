"""Optimizers for LoRA, as PEFT's users import them: `from lora_np.optimizers import create_loraplus_optimizer`."""

from .training.optim import create_lorafa_optimizer, create_loraplus_optimizer, create_riemannian_optimizer

__all__ = ["create_lorafa_optimizer", "create_loraplus_optimizer", "create_riemannian_optimizer"]
