"""Sparse models on the Hugging Face Hub: one compact file and a model card."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCardData, hf_hub_download
from torch import Tensor, nn

from dirprune._support.sizes import size_text
from dirprune.deploy.file.io import Saved, load, save
from dirprune.deploy.file.values import Values
from dirprune.deploy.graph.module import GraphNet

FILE = "model.dpz"
CARD = """---
{metadata}
---

# {name}

{zeros} of {total} stored values are zero ({share:.1%}). The file has {bytes},
1/{factor:.1f} of the dense tensors' {dense_bytes}; weights are stored as {values}. It was
written by dirprune ([the method](https://arxiv.org/abs/2006.09358)) and contains no code.

```python
from dirprune.integrations.hub import from_pretrained

model = from_pretrained("{repo_id}")  # {what}
```
"""
ENGINE = """
On a CPU, without PyTorch (`pip install numpy zstandard` and `pip install --no-deps dirprune`):

```python
from huggingface_hub import hf_hub_download
from dirprune.deploy import Engine

engine = Engine(hf_hub_download("{repo_id}", "{file}"))  # numpy in, numpy out
```
"""


def push_to_hub(
    model: nn.Module | Mapping[str, Tensor],
    repo_id: str,
    example_inputs: Any = None,
    *,
    values: Values = "float32",
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload a sparse model as one compact file, with a model card.

    The repository is created if it does not exist. A model card that it has already is kept.

    Args:
        model: As for :func:`dirprune.deploy.save`.
        repo_id: Name of the repository, such as ``user/resnet50-sparse``.
        example_inputs: A batch of 2 or more, float32. The file then contains the network, so that
            it runs without the model's code; otherwise it contains the weights.
        values: How weights are stored; ``float32`` keeps every bit.
        license: Identifier of the license for the card, such as ``apache-2.0``.
        private: Whether a new repository is private; by default as the account's settings say.
        token: Access token; by default that of ``hf auth login``.
        endpoint: Address of the hub; by default huggingface.co, or ``HF_ENDPOINT``.

    Returns:
        The address of the commit.

    Raises:
        ValueError: If the model cannot be saved.
    """
    api = HfApi(endpoint=endpoint, token=token)
    with TemporaryDirectory() as folder:
        saved = save(model, Path(folder, FILE), example_inputs, values=values)
        operations = [CommitOperationAdd(FILE, saved.path)]
        api.create_repo(repo_id, private=private, exist_ok=True)
        if not api.file_exists(repo_id, "README.md"):
            card = model_card(saved, repo_id, values, license)
            operations.append(CommitOperationAdd("README.md", card.encode()))
        message = "Upload a sparse model with dirprune"
        return str(api.create_commit(repo_id, operations, commit_message=message).commit_url)


def from_pretrained(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    max_bytes: int | None = None,
) -> GraphNet | dict[str, Tensor]:
    """Download a model that :func:`push_to_hub` uploaded; no code of the repository runs.

    Args:
        repo_id: Name of the repository.
        revision: Branch, tag or commit; by default the latest.
        token: Access token, for private repositories.
        endpoint: Address of the hub; by default huggingface.co, or ``HF_ENDPOINT``.
        max_bytes: As for :func:`dirprune.deploy.load`.

    Returns:
        As :func:`dirprune.deploy.load`: a module, or a state dict if only weights were uploaded.

    Raises:
        ValueError: If the file is damaged.
        OSError: If the repository or the file does not exist, or the hub cannot be reached.
    """
    path = hf_hub_download(repo_id, FILE, revision=revision, token=token, endpoint=endpoint)
    return load(path, max_bytes=max_bytes)


def model_card(saved: Saved, repo_id: str, values: str, license: str | None = None) -> str:
    """Return the text of a model card for a saved file."""
    stored = load(saved.path)
    state = stored.state_dict() if isinstance(stored, nn.Module) else stored
    tensors = [t for t in state.values() if t.is_floating_point()]
    total = sum(t.numel() for t in tensors)
    zeros = sum(int((t == 0).sum()) for t in tensors)
    metadata = ModelCardData(license=license, library_name="dirprune", tags=["sparse", "pruned"])
    text = CARD + (ENGINE if saved.runs else "")
    return text.format(
        metadata=metadata.to_yaml(),
        name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        file=FILE,
        zeros=f"{zeros:,}",
        total=f"{total:,}",
        share=zeros / max(total, 1),
        bytes=size_text(saved.bytes),
        dense_bytes=size_text(saved.dense_bytes),
        factor=saved.dense_bytes / saved.bytes,
        values=values,
        what="a torch module" if saved.runs else "a state dict",
    )
