r"""
Your own network and data: fine-tune to 90 % zeros
==================================================

The commonest job: a trained network exists, and a sparse one is wanted. Nothing of it is specific
to dirprune except the last step, whose lines are commented.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from dirprune import GRDA, SparsityPlan, param_groups, sparsity_report

torch.manual_seed(0)
data = load_digits()
x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
y = torch.tensor(data.target)
x, y, x_test, y_test = x[:1400], y[:1400], x[1400:], y[1400:]

net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
    nn.Linear(512, 10),
)  # fmt: skip
EPOCHS, STEPS = 12, 12 * 44


def train(optimizer: torch.optim.Optimizer) -> float:
    """Train, and return the accuracy on the test images."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    net.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    return float((net(x_test).argmax(1) == y_test).float().mean())


# %%
# The dense network, trained as usual:

dense = train(torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9))
print(f"dense: {dense:.2%}")

# %%
# The sparse network starts from it. ``param_groups`` leaves biases and BatchNorm dense; the plan
# ends at 90 % zeros of the parameters that are pruned.

groups = param_groups(net, "weights")  # instead of net.parameters()
plan = SparsityPlan(0.9, steps=STEPS)  # optimizer steps of the whole run
sparse = train(GRDA(groups, lr=0.05, momentum=0.9, plan=plan))
print(f"sparse: {sparse:.2%}")
print(sparsity_report(net))

# %%
# The zeros are in the weights, so ``torch.save(net.state_dict())`` keeps them. To make the file
# small and the network fast, see :doc:`deploy`.

pruned = [p for p in net.parameters() if p.dim() > 1]
zeros = sum(int((p == 0).sum()) for p in pruned) / sum(p.numel() for p in pruned)
assert abs(zeros - 0.9) < 0.001
assert dense > 0.9
assert sparse > dense - 0.03
