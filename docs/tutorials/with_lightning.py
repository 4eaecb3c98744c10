r"""
Lightning
=========

Only ``configure_optimizers`` changes. ``SparsityMonitor`` logs the share of zeros after every
epoch and stops a run that diverges.
"""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from dirprune import GRDA, SparsityPlan, param_groups, sparsity_report
from dirprune.integrations.lightning import SparsityMonitor

torch.manual_seed(0)
x = torch.tensor(load_digits().data, dtype=torch.float32) / 16  # 1,797 images of 8 x 8
y = torch.tensor(load_digits().target)
train = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=64, shuffle=True)

# %%
# The plan needs the number of optimizer steps of the whole run. Lightning knows it, also with
# gradient accumulation and several devices.


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        plan = SparsityPlan(0.9, steps=self.trainer.estimated_stepping_batches)
        groups = param_groups(self, "weights")  # biases stay dense
        return GRDA(groups, lr=0.1, momentum=0.9, plan=plan)


classifier = Classifier()
trainer = lightning.Trainer(
    max_epochs=10,
    accelerator="cpu",
    callbacks=[SparsityMonitor()],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(classifier, train)

# %%
# The logged value is the share of zeros among all trainable parameters. The plan's 90 % refers to
# the weights alone.

print(sparsity_report(classifier))
accuracy = float((classifier.model(x[1400:]).argmax(1) == y[1400:]).float().mean())
print(f"test accuracy {accuracy:.1%}, zeros {float(trainer.callback_metrics['sparsity']):.1%}")

weights = [classifier.model[0].weight, classifier.model[2].weight]
zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
assert abs(zeros - 0.9) < 0.001
assert accuracy > 0.85
