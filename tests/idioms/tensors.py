import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD
from transformers import AutoModelForCausalLM

x = torch.tensor([[1.0, -2.0, 3.5], [0.5, 4.0, -1.0]], requires_grad=True)
ids = torch.tensor([[5, 6, 7, 8, 9], [4, 3, 2, 3, 3]])

# %% a loss as a number
loss = (x * x).mean()
show(float(loss))
show(int(loss))
show(loss.item())
show(f"{loss:.4f} {loss:>9.2e} {loss.item():.1f}")
show(f"loss: {loss:.3f}")
show(f"step 3 | loss {loss.detach():.3f}")
show(round(loss.item(), 3))
show(bool(loss > 5))
show(loss < 1e9)
if loss > 0:
    show("positive")
losses = [loss, loss * 2]
show(float(sum(losses)) / len(losses))
show(max(losses).item())

# %% shapes and kinds
show(x.shape[0])
show(list(x.shape))
show(x.size(0))
show(x.size(-1))
show(list(x.size()))
show(x.numel())
show(x.nelement())
show(x.dim())
show(x.ndim)
show(len(x))
show(x.element_size() * x.nelement())
show(x.dtype == torch.float32)
show(x.double().dtype == torch.float64)
show(ids.dtype == torch.long)
show(x.half().dtype in (torch.float16, torch.bfloat16))
show(x.is_floating_point())
show(x.requires_grad)
show(x.is_leaf)
show(str(x.device))
show(x.device.type)
show(x.is_cuda)
batch_size, width = x.shape
show([batch_size, width])

# %% other kinds of the same numbers
show(x.detach().numpy())
show(x.detach().cpu().numpy())
show(x.tolist())
show(ids.tolist())
show(x.float())
show(x.double())
show(x.long())
show(x.int())
show((x > 0).float())
show(x.to("cpu"))
show(x.to(torch.float64))
show(x.to(torch.device("cpu")))
show(x.to(device="cpu", dtype=torch.float32))
show(x.to("cpu", torch.float16))
show(x.to(ids.device))
show(ids.to(x))
show(x.type(torch.float64))
show(ids.float().type_as(x))
show(x.bool())

# %% new tensors
show(torch.zeros(2, 3))
show(torch.zeros((2, 3), dtype=torch.long))
show(torch.ones(2))
show(torch.full((2, 2), -100))
show(torch.arange(5))
show(torch.arange(2, 8, 2, dtype=torch.float32))
show(torch.eye(2))
show(torch.zeros_like(x))
show(torch.ones_like(ids))
show(torch.full_like(ids, 7))
show(torch.tensor(3))
show(torch.tensor([True, False]))
show(torch.tensor([1, 2], dtype=torch.float64))
show(torch.as_tensor([1.5]))
show(torch.from_numpy(x.detach().numpy()))
show(list(torch.randn(4, 5).shape))
show(list(torch.randint(0, 50, (2, 8)).shape))
show(torch.is_tensor(x))

# %% comparing
show(x > 0)
show((x > 0).sum().item())
show(x == x)
show(ids == 3)
show(ids != 3)
show(ids >= 1)
show((ids > 2) & (ids < 6))
show((ids < 3) | (ids == 9))
show(~(ids > 5))
show((ids == 3).any().item())
show((ids > 0).all().item())
show((ids == 3).any(dim=1))
show(3 in ids)
show(torch.allclose(x, x + 1e-9))
show(torch.equal(ids, ids.clone()))
show(torch.isclose(x, x * 1.1))
show(torch.isnan(x).any().item())
show(torch.isfinite(x).all().item())
show(x.eq(1.0))
show(ids.lt(4))

# %% reductions
show(x.sum())
show(x.sum(dim=0))
show(x.sum(-1, keepdim=True))
show(x.mean(dim=1))
show(x.mean(dim=(0, 1)))
show(x.std())
show(x.var(dim=1))
show(x.std(dim=0, unbiased=False))
show(x.norm())
show(x.norm(p=1))
show(x.norm(dim=-1, keepdim=True))
show(torch.norm(x))
show(x.abs().max())
show(x.abs().mean().item())
show(x.max())
show(x.min().item())
values, indices = x.max(dim=-1)
show([values, indices])
show(x.min(dim=0).values)
show(x.max(1)[1])
show(x.amax(dim=1))
show(x.argmax())
show(x.argmax(dim=-1))
show(torch.argmax(x, dim=1))
show(x.argmin(dim=0))
show(ids.sum())
show((ids == 3).float().mean())
show(x.logsumexp(dim=-1))

# %% probabilities
show(x.softmax(dim=-1))
show(x.softmax(-1).sum(-1))
show(torch.softmax(x, dim=-1))
show(x.log_softmax(dim=-1))
show(torch.log_softmax(x / 0.7, dim=0))
top = torch.topk(x.softmax(-1), k=2, dim=-1)
show([top.values, top.indices])
show(x.sort(dim=-1, descending=True)[0])
show(torch.argsort(x, dim=-1))
chosen = x.log_softmax(-1).gather(-1, torch.tensor([[0], [2]])).squeeze(-1)
show(chosen)
(-chosen.mean()).backward()
show(x.grad)

# %% shapes that change
show(x.view(-1))
show(x.view(3, 2))
show(x.reshape(1, -1))
show(x.T)
show(x.t())
show(x.mT)
show(x.transpose(0, 1))
show(x.unsqueeze(0).transpose(1, 2))
show(x.unsqueeze(1).permute(2, 0, 1))
show(x.unsqueeze(-1).squeeze())
show(x.unsqueeze(0).squeeze(0))
show(x[None].expand(2, -1, -1))
show(x.flatten())
show(x.flatten(0, 1).contiguous())
show(x[0])
show(x[:, 1:])
show(x[..., -1])
show(x[x > 0])
show(x[:, torch.tensor([2, 0])])
show([row.sum().item() for row in x])
show(torch.cat([x, x], dim=0))
show(torch.cat((ids, ids[:, :1]), dim=-1))
show(torch.stack([x, x * 2], dim=1))
show([part.shape[-1] for part in x.split(2, dim=-1)])
first, second = x.chunk(2, dim=0)
show(second)
show(torch.where(x > 0, x, torch.zeros_like(x)))
show(x.masked_fill(x < 0, float("-inf")))
show(x.clamp(min=0))
show(x.clone())

# %% arithmetic
show(x + 1)
show(1 - x)
show(x * 2 / 3)
show(x**2)
show(-x)
show(x @ x.T)
show(torch.matmul(x, x.T))
show(x.exp())
show(x.abs().sqrt())
show(torch.log(x.abs()))
show(x.tanh())
show(x.pow(2).mean())
show(ids // 2)
show(ids % 2)
show(abs(x))

# %% gradients
y = (x.clone() * 3).detach()
show(y.requires_grad)
w = torch.ones(3, requires_grad=True)
(x @ w).sum().backward()
show(w.grad)
show(w.grad.sum().item())
show(torch.norm(w.grad).item())
show(w.grad.max().item())
w.grad = None
with torch.no_grad():
    show((x @ w).requires_grad)
with torch.inference_mode():
    show((x @ w).sum())
with torch.set_grad_enabled(False):
    show(torch.is_grad_enabled())
w.requires_grad_(False)
show((y @ w).requires_grad)


@torch.no_grad()
def evaluate(v):
    return (x * v).sum()


show(evaluate(w).requires_grad)

# %% a step of gradient descent by hand
w = torch.zeros(3, requires_grad=True)
target = torch.tensor([1.0, -1.0])
for step in range(5):
    loss = ((x.detach() @ w - target) ** 2).mean()
    loss.backward()
    with torch.no_grad():
        w -= 0.05 * w.grad
        w.grad = None
    show(loss.item())
show(w)

# %% labels in place
labels = ids.clone()
labels[labels == 3] = -100
labels[:, 0] = -100
show(labels)
show(ids)
show((labels != -100).sum())
total = 0.0
for value in x.sum(dim=1):
    total += value.item()
show(total)
total_loss = torch.zeros(())
for row in x:
    total_loss += row.mean()
show(total_loss)

# %% an optimizer
model = nn.Linear(3, 2)
with torch.no_grad():
    model.weight[:] = torch.tensor([[0.1, -0.2, 0.3], [0.5, 0.4, -0.6]])
    model.bias[:] = 0.0
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
show(optimizer.param_groups[0]["lr"])
show(len(optimizer.param_groups[0]["params"]))
for step in range(3):
    optimizer.zero_grad(set_to_none=True)
    loss = (model(x.detach()) ** 2).mean()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    show(float(norm))
    optimizer.step()
    optimizer.param_groups[0]["lr"] *= 0.5
    show(loss.item())
show(model.weight)
optimizer.zero_grad(set_to_none=False)
show(model.weight.grad.sum().item())
optimizer.zero_grad()
show(model.weight.grad is None)
sgd = SGD(model.parameters(), lr=0.1, momentum=0.9)
(model(x.detach()) ** 2).sum().backward()
show(clip_grad_norm_(model.parameters(), 0.5).item())
sgd.step()
show(model.bias)


# %% a module of one's own
class Probe(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.norm = nn.LayerNorm(width)
        self.scale = nn.Parameter(torch.ones(width))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        for layer in self.inner:
            x = layer(x).tanh()
        return self.norm(x) * self.scale


probe = Probe(3)
show(list(dict(probe.named_parameters())))
show([name for name, _ in probe.named_modules()])
show([type(module).__name__ for module in probe.children()])
show(list(probe.state_dict()))
show(sum(p.numel() for p in probe.parameters() if p.requires_grad))
show(list(probe(x.detach()).shape))
show(list(probe.get_parameter("inner.1.weight").shape))
show(type(probe.get_submodule("inner.0")).__name__)
for p in probe.parameters():
    p.requires_grad = False
show(any(p.requires_grad for p in probe.parameters()))
probe.requires_grad_(True)
show(all(p.requires_grad for p in probe.parameters()))
other = Probe(3)
other.load_state_dict(probe.state_dict())
show(torch.allclose(other(x.detach()), probe(x.detach())))
show(probe.double().scale.dtype == torch.float64)
show(str(next(probe.float().to("cpu").parameters()).device))
show(probe.eval().training)
show(probe.train().training)

# %% a model's parameters
model = AutoModelForCausalLM.from_pretrained(MODEL)
show(sum(p.numel() for p in model.parameters()))
show(sum(p.numel() for p in model.parameters() if p.requires_grad))
show(model.num_parameters())
show(model.num_parameters(only_trainable=True))
show(model.dtype == torch.float32)
show(str(model.device))
show(model.device.type)
show(next(model.parameters()).device.type)
show(next(model.parameters()).dtype == torch.float32)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = model.to(device)
show(sum(p.numel() * p.element_size() for p in model.parameters()))
show({name: list(p.shape) for name, p in model.named_parameters()})
show(model.get_parameter("transformer.h.0.attn.c_attn.weight").abs().mean().item())
show(model.get_submodule("transformer.h.1.mlp").c_fc.weight.norm().item())
model.requires_grad_(False)
show(sum(p.numel() for p in model.parameters() if p.requires_grad))
for name, p in model.named_parameters():
    p.requires_grad = "ln_" in name
show([name for name, p in model.named_parameters() if p.requires_grad])
show(model.half().dtype == torch.float16)
show(model.float().dtype == torch.float32)
show(type(model.transformer.h[0]).__name__)
show(len(model.transformer.h))
