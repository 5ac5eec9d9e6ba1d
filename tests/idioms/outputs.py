import torch
from torch.optim import AdamW
from transformers import AutoModelForCausalLM

torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(MODEL)
model.eval()
ids = torch.tensor([[5, 6, 7, 8, 9, 10], [4, 3, 12, 3, 11, 2]])

# %% three ways to ask
out = model(input_ids=ids, labels=ids)
show(float(out.loss))
show(out["loss"].item())
show(out[0].item())
show(out.logits[:, -1])
show(out["logits"].shape[-1])
show(out[1][0, 0])
show(list(out.keys())[:2])
show("logits" in out)
show("attentions" in out)
loss, logits = out[:2]
show(loss)
show(logits.shape[:2] == ids.shape)
loss, logits = out.to_tuple()[:2]
show(f"{loss:.4f}")
show(list(dict(list(out.items())[:1])))
show(next(iter(out)))

# %% without labels the logits come first
out = model(ids)
show(out[0].shape[-1])
show(out.loss is None)
show(out[0].argmax(dim=-1))
show(out.get("loss"))
show(list(out.keys())[0])

# %% the next token
with torch.no_grad():
    logits = model(input_ids=ids).logits
next_token = logits[:, -1, :].argmax(dim=-1, keepdim=True)
show(next_token)
ids = torch.cat([ids, next_token], dim=-1)
show(ids)
probabilities = torch.softmax(logits[0, -1] / 0.8, dim=-1)
values, indices = torch.topk(probabilities, 3)
show([values, indices])
show(probabilities.sum().item())

# %% the loss of each token
with torch.no_grad():
    logits = model(input_ids=ids).logits
shift_logits, shift_labels = logits[:, :-1, :].contiguous(), ids[:, 1:].contiguous()
log_probabilities = shift_logits.log_softmax(dim=-1)
per_token = -log_probabilities.gather(-1, shift_labels.unsqueeze(-1)).squeeze(-1)
show(per_token)
show(per_token.mean().exp().item())
show((shift_logits.argmax(-1) == shift_labels).float().mean().item())
show(torch.allclose(per_token.mean(), model(ids, labels=ids).loss))

# %% a loop as people write it
optimizer = AdamW(model.parameters(), lr=1e-3)
model.train()
for module in model.modules():
    if type(module).__name__ == "Dropout":
        module.p = 0.0
model.eval()
total = 0
for step in range(3):
    outputs = model(input_ids=ids, labels=ids)
    loss = outputs.loss
    total += loss.detach().float()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    show(f"step {step} loss {loss.item():.3f}")
show(total / 3)
show(total.item() > 1)

# %% gradient accumulation
optimizer = AdamW(model.parameters(), lr=1e-3)
for i in range(4):
    loss = model(input_ids=ids[i % 2 : i % 2 + 1], labels=ids[i % 2 : i % 2 + 1])[0] / 2
    loss.backward()
    if (i + 1) % 2 == 0:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    show(loss.item())
show(model.transformer.ln_f.weight.sum().item())

# %% distillation by hand
with torch.no_grad():
    teacher = model(ids).logits.softmax(-1)
student = model(ids).logits.log_softmax(-1)
kl = (teacher * (teacher.clamp(min=1e-9).log() - student)).sum(-1).mean()
show(abs(kl.item()) < 1e-4)
cross = -(teacher * student).sum(dim=-1).mean()
cross.backward()
show(cross.item())
show(torch.norm(model.transformer.wte.weight.grad).item())
