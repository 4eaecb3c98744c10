r"""
From a sparse network to a server
=================================

Single zeros do not make PyTorch faster. This page removes dead channels, writes one compact file,
and runs it without torch.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision

from dirprune.deploy import Engine, load, save, shrink

# %%
# A network with 90 % zeros. Here a random mask stands in for training; one channel is dead.

torch.manual_seed(0)
net = torchvision.models.resnet18(num_classes=10).eval()
with torch.no_grad():
    for p in net.parameters():
        if p.dim() > 1:
            p.mul_(torch.rand_like(p) > 0.9)
    net.layer1[0].conv1.weight[3] = 0
    net.layer1[0].bn1.bias[3] = 0

# %%
# ``shrink`` returns an ordinary module without the dead channels. Its outputs are the same.

x = torch.randn(2, 3, 64, 64)
small = shrink(net, x)
print(small.report)
with torch.no_grad():
    expected = net(x)
    torch.testing.assert_close(small(x), expected, atol=1e-4, rtol=1e-4)

# %%
# ``save`` writes graph and weights, without loss and without pickle.

folder = Path(tempfile.mkdtemp())
saved = save(small, folder / "model.dpz", x)
print(saved)
dense = sum(t.nbytes for t in net.state_dict().values())
assert saved.bytes < dense / 6

# %%
# ``Engine`` needs numpy, zstandard and the C++ extension, but neither torch nor the network's
# code. It takes any batch size. On a server: ``pip install --no-deps dirprune`` and
# ``pip install numpy zstandard``; ``examples/serve`` is a complete server.

engine = Engine(folder / "model.dpz", threads=2)
images = np.random.default_rng(0).standard_normal((5, 3, 64, 64)).astype(np.float32)
outputs = engine(images)
print(engine, outputs.shape)

# %%
# ``load`` gives the file back as a PyTorch module, to check it or to train on.

again = load(folder / "model.dpz")
with torch.no_grad():
    np.testing.assert_allclose(outputs, again(torch.from_numpy(images)), atol=1e-4, rtol=1e-3)
