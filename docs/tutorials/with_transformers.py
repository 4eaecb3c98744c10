r"""
Transformers and the Hugging Face Trainer
=========================================

A small vision transformer is trained with ``AdamGRDA`` in place of AdamW; the Trainer takes the
optimizer as an argument. A pretrained network is made sparse in the same way: load it with
``from_pretrained`` instead of making it from a config.
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from dirprune import AdamGRDA, SparsityPlan, param_groups, sparsity_report
from dirprune.integrations.transformers import SparsityCallback

torch.manual_seed(0)
images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16  # 8 x 8
labels = torch.tensor(load_digits().target)
data = [{"pixel_values": a, "labels": b} for a, b in zip(images, labels)]
config = ViTConfig(
    image_size=8, patch_size=2, num_channels=1, hidden_size=48, num_hidden_layers=1,
    num_attention_heads=4, intermediate_size=96, num_labels=10,
)  # fmt: skip
model = ViTForImageClassification(config)

# %%
# The learning rate is two to eight times AdamW's, because the threshold also shrinks the weights
# that it keeps. ``param_groups`` leaves embeddings, norms and biases dense.

args = TrainingArguments(
    tempfile.mkdtemp(),
    max_steps=400,
    per_device_train_batch_size=32,
    learning_rate=3e-3,
    logging_steps=100,
    save_strategy="no",
    report_to="none",
    use_cpu=True,
    disable_tqdm=True,
)
plan = SparsityPlan(0.8, steps=args.max_steps)
optimizer = AdamGRDA(param_groups(model, "weights"), lr=args.learning_rate, plan=plan)
trainer = Trainer(
    model,
    args,
    train_dataset=data[:1400],
    optimizers=(optimizer, None),
    callbacks=[SparsityCallback()],
)
trainer.train()

# %%
# ``SparsityCallback`` adds the share of zeros to the Trainer's log.

print([(entry["step"], round(entry["sparsity"], 3)) for entry in trainer.state.log_history])
model.eval()
with torch.no_grad():
    scores = model(images[1400:]).logits
accuracy = float((scores.argmax(1) == labels[1400:]).float().mean())
print(f"test accuracy {accuracy:.1%}")
print(sparsity_report(model))

pruned = [p for group in optimizer.param_groups if group["plan"] for p in group["params"]]
zeros = sum(int((p == 0).sum()) for p in pruned) / sum(p.numel() for p in pruned)
assert abs(zeros - 0.8) < 0.001
assert accuracy > 0.6  # 0.1 is chance
