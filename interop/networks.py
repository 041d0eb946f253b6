"""Public networks of other libraries, small and with random weights.

torchvision's wheel on PyPI is built for CUDA. With a CPU-only torch its compiled operators do not load, and its import
fails because it declares shapes for them. No segmentation network calls them. So where they do not load, the two that
the import needs are declared by name.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.methods import Output

CLASSES = 5


def declare_operators() -> None:
    """Make torchvision importable with a torch that its compiled part does not fit."""
    found = find_spec("torchvision")
    assert found is not None
    assert found.submodule_search_locations
    try:
        for library in Path(found.submodule_search_locations[0]).glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float iou) -> Tensor")


declare_operators()

import segmentation_models_pytorch as smp  # noqa: E402
import timm  # noqa: E402
import transformers  # noqa: E402
from torchvision.models import segmentation  # noqa: E402


class OwnHead(nn.Module):
    """A timm encoder with its own head: the finest and the coarsest features, a dropout, a last 1 × 1 layer."""

    def __init__(self, name: str = "convnext_atto", drop_path: float = 0.2) -> None:
        super().__init__()
        self.encoder = timm.create_model(name, features_only=True, pretrained=False, drop_path_rate=drop_path)
        fine, *_, coarse = self.encoder.feature_info.channels()
        self.fine, self.coarse = nn.Conv2d(fine, 16, 1), nn.Conv2d(coarse, 16, 1)
        self.dropout, self.head = nn.Dropout2d(0.2), nn.Conv2d(16, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine, *_, coarse = self.encoder(image)
        parts = [nn.functional.interpolate(x, image.shape[-2:]) for x in (self.fine(fine), self.coarse(coarse))]
        return self.head(self.dropout(torch.relu_(parts[0] + parts[1])))


class Queries(nn.Module):
    """Mask2Former's queries as logits of pixels: the logarithm of masks that are weighed by class probabilities."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        found = self.network(image)
        classes = found.class_queries_logits.softmax(-1)[..., :-1]  # the last is "no object"
        masks = found.masks_queries_logits.sigmoid()
        return torch.einsum("bqk,bqhw->bkhw", classes, masks).clamp_min(1e-6).log()


def _unet() -> nn.Module:
    return smp.Unet("resnet18", encoder_weights=None, classes=CLASSES)


def _deeplab_plus() -> nn.Module:
    return smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=CLASSES)


def _smp_segformer() -> nn.Module:
    return smp.Segformer("mit_b0", encoder_weights=None, classes=CLASSES)


def _torchvision(name: str) -> Callable[[], nn.Module]:
    build = getattr(segmentation, name)
    return lambda: Output(build(weights=None, weights_backbone=None, num_classes=CLASSES), "out")


def _segformer() -> nn.Module:
    config = transformers.SegformerConfig(num_labels=CLASSES)  # B0
    return Output(transformers.SegformerForSemanticSegmentation(config), "logits")


def _dpt() -> nn.Module:
    config = transformers.DPTConfig(
        num_labels=CLASSES, image_size=64, patch_size=16, hidden_size=48, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=96, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 16, 24, 24],
        fusion_hidden_size=24, initializer_range=0.2, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
        use_auxiliary_head=False,
    )  # fmt: skip
    return Output(transformers.DPTForSemanticSegmentation(config), "logits")


def _swin(drop_path: float = 0.2) -> transformers.SwinConfig:
    return transformers.SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4,
        drop_path_rate=drop_path, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip


def _upernet() -> nn.Module:
    config = transformers.UperNetConfig(
        backbone_config=_swin(), num_labels=CLASSES, hidden_size=24, use_auxiliary_head=False
    )
    return Output(transformers.UperNetForSemanticSegmentation(config), "logits")


def _mask2former() -> nn.Module:
    config = transformers.Mask2FormerConfig(
        backbone_config=_swin(0.0), num_labels=CLASSES, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, dim_feedforward=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        num_queries=6, dropout=0.1,
    )  # fmt: skip
    return Output(Queries(transformers.Mask2FormerForUniversalSegmentation(config)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "smp U-Net": _unet,
    "smp DeepLabV3+": _deeplab_plus,
    "smp Segformer": _smp_segformer,
    "torchvision DeepLabV3": _torchvision("deeplabv3_resnet50"),
    "torchvision LR-ASPP": _torchvision("lraspp_mobilenet_v3_large"),
    "torchvision FCN": _torchvision("fcn_resnet50"),
    "transformers SegFormer": _segformer,
    "transformers DPT": _dpt,
    "transformers UPerNet": _upernet,
    "transformers Mask2Former": _mask2former,
    "timm ConvNeXt, own head": OwnHead,
}


def built(name: str) -> nn.Module:
    """The network called ``name``, the same at every call, in training mode.

    Its batch normalizations have the statistics of one batch, because with their initial statistics features become
    smaller from layer to layer.
    """
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(torch.rand(2, 3, 64, 64))
    return network
