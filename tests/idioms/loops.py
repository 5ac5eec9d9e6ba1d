import random

import numpy
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup, set_seed

torch.manual_seed(0)


class MLP(nn.Module):
    def __init__(self, hidden=16):
        super().__init__()
        self.seq = nn.Sequential(
            nn.Linear(6, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2),
            nn.LogSoftmax(dim=-1),
        )

    def forward(self, X):
        return self.seq(X)


def numbered(*shape, scale=0.3):
    n = 1
    for length in shape:
        n *= length
    return (((torch.arange(n) * 37) % 17).float() / 17 - 0.5).view(*shape) * scale


def same(module):
    with torch.no_grad():
        for p in module.parameters():
            p[...] = numbered(*p.shape)
    return module


X, y = numbered(12, 6, scale=4.0), (torch.arange(12) * 5) % 2

# %% a model of one's own, adapted as PEFT's guide does
model = same(MLP())
show([(name, type(module).__name__) for name, module in model.named_modules() if name])
config = LoraConfig(r=4, target_modules=["seq.0", "seq.2"], modules_to_save=["seq.4"])
peft_model = get_peft_model(model, config)
peft_model.print_trainable_parameters()
show(sum(p.numel() for p in peft_model.parameters() if p.requires_grad))
for name, p in peft_model.named_parameters():
    if p.requires_grad:
        with torch.no_grad():
            p[...] = numbered(*p.shape)
optimizer = torch.optim.Adam(peft_model.parameters(), lr=2e-3)
criterion = nn.CrossEntropyLoss()
for epoch in range(4):
    peft_model.train()
    train_loss = 0
    for xb, yb in [(X[:6], y[:6]), (X[6:], y[6:])]:
        outputs = peft_model(xb)
        loss = criterion(outputs, yb)
        train_loss += loss.detach().float()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    show(train_loss.item() / 2)
peft_model.eval()
with torch.no_grad():
    outputs = peft_model(X)
show((outputs.argmax(dim=-1) == y).float().mean().item())
show(nn.functional.cross_entropy(outputs, y, reduction="none"))
show(outputs)

# %% a loop with a schedule
model = AutoModelForCausalLM.from_pretrained(MODEL)
model.eval()
ids = torch.tensor([[5, 6, 7, 8, 9, 10], [4, 3, 12, 3, 11, 2]])
num_epochs, batches = 2, [ids[:1], ids[1:]]
optimizer = AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
lr_scheduler = get_linear_schedule_with_warmup(
    optimizer=optimizer, num_warmup_steps=1, num_training_steps=len(batches) * num_epochs
)
for epoch in range(num_epochs):
    total_loss = 0
    for step, batch in enumerate(batches):
        outputs = model(input_ids=batch, labels=batch)
        loss = outputs.loss
        total_loss += loss.detach().float()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        show(lr_scheduler.get_last_lr()[0])
        show(optimizer.param_groups[0]["lr"])
    show(total_loss / len(batches))
    show(torch.exp(total_loss / len(batches)).item())

# %% regression by hand
w, b = torch.zeros(6, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
optimizer = torch.optim.SGD([{"params": [w]}, {"params": [b], "lr": 0.5}], lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=lambda step: 0.9**step)
loss_function = nn.MSELoss()
for i in range(5):
    prediction = (X @ w + b).squeeze(-1)
    loss = loss_function(prediction, y.float())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    show(loss.item())
show([group["lr"] for group in optimizer.param_groups])
show(w.T)


# %% a LoRA layer of one's own
class LoRALinear(nn.Module):
    def __init__(self, linear, r=2, alpha=4):
        super().__init__()
        self.linear = linear
        self.linear.weight.requires_grad = False
        self.linear.bias.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.zeros(r, linear.in_features))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5)
        nn.init.zeros_(self.lora_B)
        self.scaling = alpha / r

    def forward(self, x):
        return self.linear(x) + (x @ self.lora_A.T @ self.lora_B.T) * self.scaling


layer = LoRALinear(same(nn.Linear(6, 3)))
show(torch.allclose(layer(X), layer.linear(X)))
show(layer.lora_A.abs().max().item() <= 1 / 6**0.5)
with torch.no_grad():
    layer.lora_A.copy_(numbered(2, 6))
    layer.lora_B.add_(0.1)
show([name for name, p in layer.named_parameters() if p.requires_grad])
show(layer(X))
layer(X).pow(2).mean().backward()
show(layer.lora_A.grad)
show(layer.linear.weight.grad is None)
with torch.no_grad():
    merged = layer.linear.weight + layer.lora_B @ layer.lora_A * layer.scaling
show(torch.allclose(X @ merged.T + layer.linear.bias, layer(X), atol=1e-5))

# %% one seed for all random numbers
set_seed(3)
show([random.random(), float(numpy.random.rand())])
