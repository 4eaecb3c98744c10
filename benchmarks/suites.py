"""The networks of benchmarks/models.py, with random weights: nothing is downloaded."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Tensor | tuple[Any, ...] | dict[str, Any]
Build = Callable[[], tuple[nn.Module, Callable[[int], Inputs]]]
"""Returns a network, and a function that returns inputs for a batch size."""

TIMM = """
resnet18d:64 resnetv2_50:64 resnest14d:64 seresnet18:64 ecaresnet26t:64 skresnet18:64
efficientnet_lite0:64 efficientnetv2_rw_t:64 tf_efficientnet_b0:65 mobilenetv3_small_050:64
mobilenetv4_conv_small_035:64 mobilenetv4_hybrid_medium:64 mobilenetv1_100:64 mobilevit_xxs:64
convnext_atto:64 convnextv2_atto:64 regnetx_002:64 regnety_002:64 repvgg_a0:64 rexnet_100:64
dla34:64 densenet121:64 ese_vovnet19b_dw:64 ghostnet_050:64 ghostnetv2_100:64 lcnet_035:64
tinynet_e:64 fbnetc_100:64 mnasnet_small:64 legacy_xception:96 inception_v4:128 nfnet_l0:64
dm_nfnet_f0:64 mixer_s32_224:224 resmlp_12_224:224 gmlp_ti16_224:224 vit_tiny_patch16_224:64
deit_tiny_patch16_224:64 swin_tiny_patch4_window7_224:224 swinv2_tiny_window8_256:256 pvt_v2_b0:64
coat_lite_tiny:64 crossvit_tiny_240:240 efficientformer_l1:224 starnet_s1:64 hgnetv2_b0:64
hardcorenas_a:64 cspresnet50:64 cspdarknet53:64 tresnet_m:64 visformer_tiny:224 twins_svt_small:224
beit_base_patch16_224:64 eva02_tiny_patch14_224:70 maxvit_rmlp_pico_rw_256:256 repghostnet_050:64
davit_tiny:64 repvit_m1:64 shvit_s1:64 fasternet_t0:64 mambaout_femto:64 convmixer_768_32:64
res2net50_14w_8s:64 bat_resnext26ts:256 botnet26t_256:256 gcresnext26ts:64 focalnet_tiny_srf:224
pit_ti_224:224 nest_tiny:224 caformer_s18:64 efficientvit_b0:64 swiftformer_xs:64
vitamin_small_224:64 cspnext_tiny:64 xcit_nano_12_p16_224:224 cait_xxs24_224:224
tiny_vit_5m_224:224 edgenext_xx_small:64 poolformer_s12:64 sequencer2d_s:224 volo_d1_224:224
levit_128s:224 hrnet_w18_small:64 dpn68:64 selecsls42b:64 convit_tiny:224 fastvit_t8:64
inception_next_atto:64 hiera_tiny_224:224 efficientvit_m0:224
"""

SEGMENTATION = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50")
DECODERS = ("Unet", "FPN", "DeepLabV3", "MAnet", "PSPNet", "UnetPlusPlus", "Linknet")


def images(side: int, batch: int) -> Tensor:
    """A batch of noise."""
    return torch.randn(batch, 3, side, side)


def timm_network(spec: str) -> tuple[nn.Module, Callable[[int], Inputs]]:
    """A network of timm; ``spec`` is "NAME:IMAGE_SIZE"."""
    import timm

    name, side = spec.split(":")
    try:
        model = timm.create_model(name, num_classes=10, img_size=int(side))
    except TypeError:  # a network without img_size accepts images of any size
        model = timm.create_model(name, num_classes=10)
    return model, partial(images, int(side))


def classifier(name: str) -> tuple[nn.Module, Callable[[int], Inputs]]:
    """A classifier of torchvision."""
    from torchvision import models

    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = models.get_model(name, weights=None, **options)  # type: ignore[attr-defined]
    return model, partial(images, 299 if name == "inception_v3" else 224)


def segmentation(name: str) -> tuple[nn.Module, Callable[[int], Inputs]]:
    """A segmentation network of torchvision."""
    from torchvision.models import segmentation as models

    model = getattr(models, name)(weights=None, weights_backbone=None, num_classes=5)
    return model, partial(images, 96)


def backbone(_: str) -> tuple[nn.Module, Callable[[int], Inputs]]:
    """The backbone of a detector, which returns a dictionary of five feature maps."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    model = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return model, partial(images, 128)


def encoder_decoder(name: str) -> tuple[nn.Module, Callable[[int], Inputs]]:
    """A network of segmentation_models_pytorch with a resnet18 encoder."""
    import segmentation_models_pytorch as smp

    model = getattr(smp, name)("resnet18", encoder_weights=None, classes=4)
    return model, partial(images, 96)


def tokens(more: tuple[str, ...], batch: int) -> Inputs:
    """Random tokens, with a mask that excludes the last three tokens of every second row."""
    held: dict[str, Any] = {"input_ids": torch.randint(100, (batch, 12))}
    if "mask" in more:
        mask = torch.ones(batch, 12, dtype=torch.int64)
        mask[::2, 9:] = 0
        held["attention_mask"] = mask
    if "decoder" in more:
        held["decoder_input_ids"] = torch.randint(100, (batch, 7))
    return held


_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64}  # fmt: skip
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 100,
       "decoder_start_token_id": 0}  # fmt: skip
_MAPS = {"image_size": 32, "patch_size": 8, **_SIZE}
_TEXT = {"vocab_size": 100, "max_position_embeddings": 64, **_SIZE}
_LLAMA = {**_TEXT, "num_key_value_heads": 2}
_GPT2 = {"vocab_size": 100, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
_BART = {"vocab_size": 100, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
         "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
         "decoder_ffn_dim": 64, "max_position_embeddings": 64}  # fmt: skip
_SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 2],
         "num_heads": [2, 4], "window_size": 4}  # fmt: skip

TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any], Any]] = {
    # name: class, configuration, its values, inputs
    "ViT": ("ViTForImageClassification", "ViTConfig", _MAPS, 32),
    "DeiT": ("DeiTForImageClassification", "DeiTConfig", _MAPS, 32),
    "Swin": ("SwinForImageClassification", "SwinConfig", _SWIN, 64),
    "ConvNext": ("ConvNextForImageClassification", "ConvNextConfig",
                 {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}, 64),
    "Segformer": ("SegformerForSemanticSegmentation", "SegformerConfig",
                  {"hidden_sizes": [16, 32, 40, 64], "decoder_hidden_size": 32}, 64),
    "DINOv2": ("Dinov2Model", "Dinov2Config", _MAPS, 32),
    "BERT": ("BertForSequenceClassification", "BertConfig", _TEXT, ("mask",)),
    "BERT without mask": ("BertModel", "BertConfig", _TEXT, ()),
    "RoBERTa": ("RobertaModel", "RobertaConfig", _TEXT, ("mask",)),
    "DistilBERT": ("DistilBertForSequenceClassification", "DistilBertConfig",
                   {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4,
                    "hidden_dim": 64}, ("mask",)),
    "ALBERT": ("AlbertModel", "AlbertConfig", {**_TEXT, "embedding_size": 16}, ("mask",)),
    "ELECTRA": ("ElectraModel", "ElectraConfig", {**_TEXT, "embedding_size": 16}, ("mask",)),
    "DeBERTa v2": ("DebertaV2Model", "DebertaV2Config",
                   {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
                   ("mask",)),
    "MPNet": ("MPNetModel", "MPNetConfig", _TEXT, ("mask",)),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", _GPT2, ()),
    "GPT-2 with mask": ("GPT2LMHeadModel", "GPT2Config", _GPT2, ("mask",)),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA, ()),
    "Qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _LLAMA, ()),
    "OPT": ("OPTForCausalLM", "OPTConfig",
            {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64,
             "num_attention_heads": 4, "max_position_embeddings": 64,
             "word_embed_proj_dim": 32}, ("mask",)),
    "T5": ("T5Model", "T5Config", _T5, ("decoder",)),
    "BART": ("BartModel", "BartConfig", _BART, ("mask",)),
}  # fmt: skip


def transformer(name: str) -> tuple[nn.Module, Callable[[int], Inputs]]:
    """A small network of Hugging Face transformers, with random weights."""
    import transformers

    model, config, values, inputs = TRANSFORMERS[name]
    module = getattr(transformers, model)(getattr(transformers, config)(**values, use_cache=False))
    return module, partial(images if isinstance(inputs, int) else tokens, inputs)


def names(suite: str) -> list[str]:
    """The networks of a suite."""
    if suite == "torchvision":
        from torchvision import models

        every = models.list_models(module=models)  # type: ignore[attr-defined]
        return sorted(every, key=_parameters)
    return {
        "timm": TIMM.split(),
        "torchvision segmentation": [*SEGMENTATION, "resnet18 FPN backbone"],
        "segmentation_models_pytorch": list(DECODERS),
        "transformers": list(TRANSFORMERS),
    }[suite]


def build(suite: str, name: str) -> tuple[nn.Module, Callable[[int], Inputs]]:
    """Return a network, and a function that returns inputs for a batch size."""
    make = {
        "timm": timm_network,
        "torchvision": classifier,
        "torchvision segmentation": backbone if "backbone" in name else segmentation,
        "segmentation_models_pytorch": encoder_decoder,
        "transformers": transformer,
    }[suite]
    return make(name)


SUITES = ("timm", "torchvision segmentation", "segmentation_models_pytorch", "transformers",
          "torchvision")  # fmt: skip


def family(name: str) -> str:
    """A network's name without its size, such as "resnet" for "resnet18"."""
    found = re.match(r"[a-z]+(_[a-z]+\b)?", name)
    return found.group() if found else name


def _parameters(name: str) -> int:
    from torchvision import models

    weights = models.get_model_weights(name)  # type: ignore[attr-defined]
    return int(next(iter(weights)).meta["num_params"])
