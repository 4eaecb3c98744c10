"""Which parameters each rule thresholds, compared with hand-written lists."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from dirprune import GRDA, param_groups


def thresholded(model: nn.Module) -> set[str]:
    groups = param_groups(model, "weights")
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in model.parameters())  # each exactly once
    chosen = {id(p) for group in groups if group.get("c") is None for p in group["params"]}
    return {name for name, p in model.named_parameters() if id(p) in chosen}


class Tables(nn.Module):
    """Tensors of two or more dimensions; only the last three are kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.ones(8, 1, 1))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.registers = nn.Parameter(torch.zeros(1, 4, 8))  # broadcast over the batch
        self.pos_embed = nn.Parameter(torch.zeros(5, 8))
        self.positional_embedding = nn.Parameter(torch.zeros(5, 8))
        self.rel_pos_h = nn.Parameter(torch.zeros(7, 8))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.tokens = nn.ParameterList([torch.zeros(3, 8)])
        self.A_log = nn.Parameter(torch.zeros(4, 8))
        self.A_log._no_weight_decay = True
        self.memory = nn.Parameter(torch.zeros(4, 8))  # see no_weight_decay
        self.memory_weight = nn.Parameter(torch.zeros(4, 8))
        self.embedding = nn.Embedding(5, 8)
        self.norm = nn.LayerNorm((3, 8))
        self.conv = nn.Conv2d(3, 1, 3)  # a kernel, although its first dimension is 1
        self.mixer = nn.Parameter(torch.zeros(8, 8))

    def no_weight_decay(self) -> set[str]:
        return {"memory"}


def test_only_kernels_and_matrices_are_thresholded() -> None:
    assert thresholded(Tables()) == {"mixer", "conv.weight", "memory_weight"}


def test_a_submodule_exempts_its_own_parameters() -> None:
    net = nn.Sequential(nn.Linear(2, 2), Tables())
    assert thresholded(net) == {"0.weight", "1.mixer", "1.conv.weight", "1.memory_weight"}


def test_an_output_layer_that_shares_the_embedding_is_dense() -> None:
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 5, bias=False))
    net.append(nn.Embedding(5, 6))
    net[1].weight = net[2].weight
    assert thresholded(net) == {"0.weight"}


def test_torchvisions_transformers() -> None:
    vit = VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3)
    block = "encoder.layers.encoder_layer_0."
    assert thresholded(vit) == {
        "conv_proj.weight",
        f"{block}self_attention.in_proj_weight",
        f"{block}self_attention.out_proj.weight",
        f"{block}mlp.0.weight",
        f"{block}mlp.3.weight",
        "heads.head.weight",
    }
    swin = SwinTransformer([2, 2], 8, [1, 1], [2, 2], [4, 4], num_classes=3)
    assert thresholded(swin) == {
        "features.0.0.weight",
        "features.1.0.attn.qkv.weight",
        "features.1.0.attn.proj.weight",
        "features.1.0.mlp.0.weight",
        "features.1.0.mlp.3.weight",
        "features.2.reduction.weight",
        "features.3.0.attn.qkv.weight",
        "features.3.0.attn.proj.weight",
        "features.3.0.mlp.0.weight",
        "features.3.0.mlp.3.weight",
        "head.weight",
    }


@pytest.mark.parametrize("style", ["hook", "parametrization"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_weight_normalised_layers_stay_finite(style: str) -> None:
    norm = nn.utils.weight_norm if style == "hook" else parametrizations.weight_norm
    net = nn.Sequential(norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2))
    assert thresholded(net) == {"2.weight"}
    optimizer = GRDA(param_groups(net, "weights"), lr=0.1, c=0.5, mu=0.6)
    x, y = torch.randn(32, 4), torch.randint(2, (32,))
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
    assert bool(loss.isfinite())


def test_spectral_norms_are_dense_and_masked_weights_are_not() -> None:
    net = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(4, 4)),
        nn.utils.spectral_norm(nn.Linear(4, 4)),
        parametrizations.orthogonal(nn.Linear(4, 4)),
        nn.Linear(4, 4),
    )
    prune.l1_unstructured(net[3], "weight", amount=0.5)
    assert thresholded(net) == {"3.weight_orig"}


def test_a_callable_sees_the_names_of_the_plain_model() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1] = torch.compile(net[1], backend="eager")
    seen = []

    def first(name: str, parameter: Tensor) -> bool:
        seen.append(name)
        return name.startswith("0.")

    groups = param_groups(torch.compile(net, backend="eager"), first)
    assert seen == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert groups[0]["params"] == list(net[0].parameters())


def test_models_and_rules_without_groups_are_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"0.weight has no shape yet.*pass one batch"):
        param_groups(lazy, "weights")
    with pytest.raises(ValueError, match="has no parameters to optimise"):
        param_groups(nn.ReLU())
    with pytest.raises(ValueError, match='"all", "weights" or a callable'):
        param_groups(nn.Linear(2, 2), "biases")  # type: ignore[arg-type]


@pytest.mark.slow
def test_timms_transformers() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        model = timm.create_model(name)
        dense = {n for n, _ in model.named_parameters()} - thresholded(model)
        modules = dict(model.named_modules())
        kernels = {n for n, m in modules.items() if isinstance(m, (nn.Conv2d, nn.Linear))}
        assert thresholded(model) == {f"{n}.weight" for n in kernels}
        assert dense


@pytest.mark.slow
def test_hugging_faces_bert() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32}
    config = transformers.BertConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    layer = "bert.encoder.layer.0."
    assert thresholded(transformers.BertForMaskedLM(config)) == {
        *(f"{layer}attention.self.{name}.weight" for name in ("query", "key", "value")),
        f"{layer}attention.output.dense.weight",
        f"{layer}intermediate.dense.weight",
        f"{layer}output.dense.weight",
        "cls.predictions.transform.dense.weight",
    }
