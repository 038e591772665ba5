"""Writes tests/golden/vision/: small models of images of three libraries, weights and outputs.

Each file has the weights as the library saves them, its config, images (B, H, W, C) and what the
model makes of them in float64. Weights are random, biases, norms and statistics too, and of few
digits, so that the files are small. published.npz has the names and shapes of published
sizes. It needs PyTorch, transformers, timm and torchvision, which the tests do not:

    python scripts/golden_architectures_vision.py
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
import transformers
from safetensors.torch import load_file
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn
from torchvision.models.resnet import Bottleneck

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "vision"
SIZES = {"height": 20, "width": 18}  # where the padding of a stride of 2 matters
PUBLISHED = (
    "resnet18",
    "resnet50",
    "resnet152",
    "deit_small_distilled_patch16_224",
    "efficientnet_b0",
    "tf_efficientnet_b3",
    "mobilenetv2_140",
    "mobilenetv3_large_100",
    "tf_mobilenetv3_small_100",
    "convnext_base",
    "convnext_nano",
)


class SmallResNet(torchvision.models.ResNet):
    """torchvision's ResNet with two stages of few channels, which its constructor cannot make."""

    def __init__(self, block: Any, channels: tuple[int, int]) -> None:
        """One block in the first stage, two in the second."""
        super().__init__(block, [1, 1, 1, 1], num_classes=5)
        self.inplanes = channels[0]
        self.conv1 = nn.Conv2d(3, channels[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1 = self._make_layer(block, channels[0], 1)
        self.layer2 = self._make_layer(block, channels[1], 2, stride=2)
        self.layer3 = self.layer4 = nn.Identity()
        self.fc = nn.Linear(self.inplanes, 5)


def randomize(model: nn.Module) -> None:
    """Random values of 1/32 times a power of two for all weights and statistics."""
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        steps = torch.randint(-31, 32, tensor.shape) / 32
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.copy_(1 + steps / 2)
        elif tensor.ndim < 2:
            tensor.copy_(steps / 2)
        else:
            tensor.copy_(steps * 2.0 ** -round(np.log2(tensor[0].numel()) / 2 - 0.8))
        # So that a wrong epsilon of the first layer norm is seen.
        if any(part in name for part in ("embeddings", "_embed", "token")):
            tensor.mul_(2.0**-9)


def hugging_face(config: Any, model_class: Callable[[Any], nn.Module]) -> Any:
    """A model, its config, and its weights as they are in the file."""
    model = model_class(config)
    randomize(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        text = (Path(folder) / "config.json").read_text()
        return model, json.loads(text), load_file(Path(folder) / "model.safetensors")


def plain(model: nn.Module, config: dict[str, Any]) -> Any:
    """A model of torchvision or timm, whose file has the names of its state."""
    randomize(model)
    return model, config, model.state_dict()


def resnets() -> Iterator[tuple[str, Any, dict[str, int]]]:
    """Both kinds of blocks of Hugging Face, and one of torchvision."""
    for kind, widths in (("basic", [8, 16]), ("bottleneck", [32, 64])):
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=widths, depths=[1, 2], layer_type=kind, num_labels=5
        )
        made = hugging_face(config, transformers.ResNetForImageClassification)
        yield f"resnet_{kind}", made, SIZES
    yield "torchvision_resnet", plain(SmallResNet(Bottleneck, (8, 16)), {}), SIZES


def vits() -> Iterator[tuple[str, Any, dict[str, int]]]:
    """ViT, DeiT and DINOv2 of two layers, of both libraries, and two without a head."""
    size = {"height": 12, "width": 12}
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"image_size": 12, "patch_size": 4, "num_labels": 5}
    for prefix, heads in (
        ("ViT", ("ForImageClassification", "Model")),
        ("DeiT", ("ForImageClassificationWithTeacher",)),
        ("Dinov2", ("ForImageClassification", "Model")),
    ):
        config_class = getattr(transformers, f"{prefix}Config")
        more = {"layerscale_value": 0.5} if prefix == "Dinov2" else {"intermediate_size": 24}
        for head in heads:
            model_class = getattr(transformers, f"{prefix}{head}")
            made = hugging_face(config_class(**sizes, **more), model_class)
            yield f"{prefix.lower()}{'_base' if head == 'Model' else ''}", made, size
    arguments = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "img_size": 12}
    for name, architecture, labels in (
        ("vit", "vit_tiny_patch16_224", 5),
        ("deit", "deit_tiny_distilled_patch16_224", 5),
        ("dinov2", "vit_small_patch14_dinov2", 0),
    ):
        config = {"architecture": architecture, "num_classes": labels, "global_pool": "token"}
        model = timm.create_model(architecture, num_classes=labels, **arguments)
        yield f"timm_{name}", plain(model, {**config, "model_args": arguments}), size


def inverted_residuals() -> Iterator[tuple[str, Any, dict[str, int]]]:
    """EfficientNet with both paddings and epsilons, and MobileNetV2, of three stages."""
    size = {"height": 36, "width": 33}
    efficientnet = {"act_layer": nn.SiLU}
    for name, squeeze, form in (
        ("efficientnet", "_se0.25", efficientnet),
        ("tf_efficientnet", "_se0.25", {**efficientnet, "pad_type": "same"}),
        ("mobilenet_v2", "", {"act_layer": nn.ReLU6}),
    ):
        stages = ["ds_r1_k3_s1_e1_c8", "ir_r2_k3_s2_e6_c8", "ir_r1_k5_s2_e6_c16"]
        blocks = decode_arch_def([[stage + squeeze] for stage in stages])
        norm = partial(nn.BatchNorm2d, eps=1e-3 if name.startswith("tf") else 1e-5)
        model = EfficientNet(blocks, 5, 64, stem_size=8, norm_layer=norm, **form)
        yield f"timm_{name}", plain(model, {}), size


def mobilenets_v3() -> Iterator[tuple[str, Any, dict[str, int]]]:
    """MobileNetV3 of three stages, with all that its blocks differ by."""
    stages = (
        ["ds_r1_k3_s1_e1_c8_se0.25_nre"],
        ["ir_r1_k3_s2_e4.5_c8_nre", "ir_r1_k3_s1_e2.3_c8_nre"],
        ["ir_r1_k5_s2_e6_c16_se0.25"],
        ["cn_r1_k1_s1_c96"],
    )
    relu, rounded = nn.ReLU, round_channels
    squeeze = partial(
        SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=relu, rd_round_fn=rounded
    )
    form = {"stem_size": 8, "act_layer": nn.Hardswish, "se_layer": squeeze, "fix_stem": True}
    model = MobileNetV3(decode_arch_def(stages), 5, num_features=24, **form)
    yield "timm_mobilenet_v3", plain(model, {}), {"height": 36, "width": 33}


def convnexts() -> Iterator[tuple[str, Any, dict[str, int]]]:
    """ConvNeXt of both libraries, with layers and with convolutions of 1 x 1 pixel, and no head."""
    config = transformers.ConvNextConfig(
        hidden_sizes=[4, 8],
        depths=[1, 2],
        num_stages=2,
        patch_size=2,
        num_labels=5,
        layer_norm_eps=1e-3,
    )
    for name, head in (("convnext", "ForImageClassification"), ("convnext_base", "Model")):
        yield name, hugging_face(config, getattr(transformers, f"ConvNext{head}")), SIZES
    arguments = {"depths": [1, 2, 1, 1], "dims": [4, 8, 4, 8]}
    for name in ("convnext_tiny", "convnext_atto"):
        config = {"architecture": name, "num_classes": 5, "model_args": arguments}
        model = timm.create_model(name, num_classes=5, **arguments)
        yield f"timm_{name}", plain(model, config), {"height": 36, "width": 33}


def clips() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """CLIP with its end of a text in the config, and as older files have it, with GELU by erf.

    Behind the end of a text there is padding, which in one file is the same token.
    """
    tokens = torch.tensor([[1, 7, 3, 12, 5, 29, 29, 29], [1, 9, 9, 4, 2, 8, 11, 29]])
    for name, end, padding, act, depth in (
        ("clip", 29, 29, "quick_gelu", 2),
        ("clip_older", 2, 0, "gelu", 1),
    ):
        sizes = {"num_hidden_layers": depth, "intermediate_size": 20}
        text = {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": 31}
        text |= {"max_position_embeddings": 9, "eos_token_id": end, "hidden_act": act, **sizes}
        image = {"hidden_size": 24, "num_attention_heads": 3, "image_size": 12, "patch_size": 4}
        config = transformers.CLIPConfig(
            text_config=text,
            vision_config={**image, "hidden_act": act, **sizes},
            projection_dim=10,
        )
        model, config, weights = hugging_face(config, transformers.CLIPModel)
        x = torch.randn(3, 3, 12, 12)
        y = tokens.clone()
        y[0, 6:] = padding
        model = model.eval().double()
        images = model.get_image_features(x.double()).pooler_output
        texts = model.get_text_features(y).pooler_output
        out = model(y, x.double()).logits_per_image
        arrays = {f"weights/{key}": value.float().numpy() for key, value in weights.items()}
        arrays |= {"config": np.asarray(json.dumps(config)), "x": x.numpy().transpose(0, 2, 3, 1)}
        arrays |= {"y": y.numpy().astype(np.int32), "images": images.float().numpy()}
        yield name, arrays | {"texts": texts.float().numpy(), "logits": out.float().numpy()}


def write(name: str, arrays: dict[str, np.ndarray]) -> None:
    """Write one file, and say how large it is."""
    path = GOLDEN / f"{name}.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def write_classifiers(models: list[tuple[str, Any, dict[str, int]]]) -> None:
    """Write the files of models that give logits."""
    for name, (model, config, weights), size in models:
        x = torch.randn(2, 3, size["height"], size["width"])
        arrays = {f"weights/{key}": value.float().numpy() for key, value in weights.items()}
        arrays["config"] = np.asarray(json.dumps(config))
        arrays["x"] = x.numpy().transpose(0, 2, 3, 1)
        write(name, arrays | {"y": logits(model, x).float().numpy()})


def published() -> dict[str, dict[str, list[int]]]:
    """The names and shapes of timm's models; torchvision's ResNets have the same."""
    found = {}
    for name in PUBLISHED:
        model = timm.create_model(name)
        found[name] = {name: list(x.shape) for name, x in model.state_dict().items()}
        if not name.startswith("resnet"):
            continue
        theirs = torchvision.models.get_model(name)
        theirs.load_state_dict(model.state_dict())
        x = torch.randn(1, 3, 65, 64)
        torch.testing.assert_close(model.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
    return found


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the model gives: logits, or where it has no head what a head of its kind reads."""
    out = model.eval().double()(x.double())
    if isinstance(out, torch.Tensor):
        return out
    if hasattr(out, "logits"):
        return out.logits
    if isinstance(model, transformers.ConvNextModel):
        return out.pooler_output
    class_token, patches = out.last_hidden_state[:, 0], out.last_hidden_state[:, 1:]
    if isinstance(model, transformers.Dinov2Model):
        return torch.cat([class_token, patches.mean(1)], 1)
    return class_token


def main() -> None:
    """Write all files, and say how large they are."""
    torch.manual_seed(0)
    with torch.no_grad():
        write_classifiers([*resnets(), *vits(), *inverted_residuals()])
        for name, arrays in clips():
            write(name, arrays)
        write_classifiers(
            [*convnexts(), *mobilenets_v3()]
        )  # last, so that the draws for the others stay
        write("published", {"json": np.asarray(json.dumps(published()))})
    versions = (transformers, timm, torchvision, torch)
    print(", ".join(f"{library.__name__} {library.__version__}" for library in versions))


if __name__ == "__main__":
    main()
