r"""
timm
====

``register`` adds ``grda`` and ``adamgrda`` to timm's optimizer factory, so that layer decay and
timm's rules for weight decay work as usual.
Parameters without weight decay (biases, norms) stay dense.
"""

import timm
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate

from dirprune import SparsityPlan, sparsity_report
from dirprune.integrations.timm import register

torch.manual_seed(0)
x = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
x = interpolate(x, size=32, mode="bilinear")
y = torch.tensor(load_digits().target)

# %%
# In timm's own training script the same is ``--opt grda``, after ``register()``.

register()
EPOCHS, BATCH = 3, 32
model = timm.create_model("resnet10t", num_classes=10, in_chans=1)
steps = EPOCHS * -(-1400 // BATCH)
optimizer = timm.optim.create_optimizer_v2(
    model, "grda", lr=0.05, momentum=0.9, weight_decay=5e-4, plan=SparsityPlan(0.9, steps=steps)
)
for epoch in range(EPOCHS):
    for batch in torch.randperm(1400).split(BATCH):
        optimizer.zero_grad()
        cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: {sparsity_report(model).sparsity:.1%} zeros")

# %%
# The zeros are in the weights, so the model is saved and loaded like any model of timm.

model.eval()
with torch.no_grad():
    accuracy = float((model(x[1400:]).argmax(1) == y[1400:]).float().mean())
print(f"test accuracy {accuracy:.1%}")

pruned = [p for group in optimizer.param_groups if group["plan"] for p in group["params"]]
zeros = sum(int((p == 0).sum()) for p in pruned) / sum(p.numel() for p in pruned)
assert abs(zeros - 0.9) < 0.001
assert accuracy > 0.8
