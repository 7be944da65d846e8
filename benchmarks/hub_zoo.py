"""Builds the image architectures of KerasHub at small sizes, without any downloaded weights.

Widths, depths and heads are those of the presets, unless a comment says otherwise; images are as
small as the architecture allows. Every model ends in a classifier of ten classes, so that only its
outputs reach the model's output. `check` prunes one and says what became of it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from cprune_tf import graph as graphs
from cprune_tf.graph import unfolding
from cprune_tf.graph.flat import flatten
from cprune_tf.graph.rules import REGISTRY

try:
    import zoo
except ImportError:  # of a test, for which this folder is a package
    from benchmarks import zoo

Builder = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one architecture.

    Attributes:
        refused: Why it is not pruned; None if it is.
        checks: The results of pruning, masking, saving, loading and converting; None if it is
            refused.
        whole: Why layers without a rule are not followed inside, by the layer's class.
        tvm: "yes", or why the importer refuses the rebuilt model.
        litert: "yes", or why TensorFlow does not convert the rebuilt model.
    """

    refused: str | None
    checks: zoo.Checks | None
    whole: dict[str, str]
    tvm: str
    litert: str


def hub() -> Any:
    """Returns the package.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise ImportError(
            "KerasHub is missing: pip install --no-deps keras-hub, "
            'and pip install "cprune_tf[keras_hub]"'
        ) from error


def names() -> list[str]:
    """Returns the names of all architectures; they can be read without the package."""
    return sorted(_BUILDERS)


def build(name: str) -> Any:
    """Builds an architecture with random weights and a classifier that returns logits."""
    keras.utils.set_random_seed(0)
    return _with_classifier(_BUILDERS[name]())


def check(name: str) -> Outcome:
    """Prunes an architecture, compares the result with what it must equal, and converts it."""
    model = build(name)
    whole = _whole_layers(model)
    try:
        small, checks = zoo.check_model(model)
    except graphs.GraphError as error:
        return Outcome(str(error).splitlines()[0], None, whole, "-", "-")
    litert = "yes"
    try:
        checks = dataclasses.replace(checks, tflite_error=zoo.tflite_error(small))
    except Exception as error:  # whatever TensorFlow's converter or LiteRT raises
        litert = _first_line(error)
    return Outcome(None, checks, whole, _imported(small), litert)


def _whole_layers(model: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for call in flatten(model).calls:
        layer, args, kwargs = call.operation, call.args, call.kwargs
        if REGISTRY.find(layer) or unfolding.passes_at_inference(layer, args, kwargs):
            continue
        try:
            unfolding.unfold(layer, args, kwargs, call.outputs)
        except unfolding.CannotUnfoldError as error:
            found[type(layer).__name__] = str(error)
    return found


def _imported(model: Any) -> str:
    from cprune_tf.compiler.importer import UnsupportedOperationError, import_model

    try:
        import_model(model)
    except UnsupportedOperationError as error:
        kinds = sorted({f"{o.kind.rsplit('.', 1)[-1]} ({o.reason})" for o in error.operations})
        return f"refused: {', '.join(kinds)}"
    return "yes"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"refused: {lines[0][:160]}"


def _with_classifier(backbone: Any) -> Any:
    pooled = []
    for features in keras.tree.flatten(backbone.output):
        rank = len(features.shape)
        pool = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D}
        pooled.append(pool[rank]()(features) if rank in pool else features)
    x = keras.layers.Concatenate()(pooled) if len(pooled) > 1 else pooled[0]
    return keras.Model(backbone.inputs[0], keras.layers.Dense(10, name="logits")(x))


def _backbone(kind: str, shape: Sequence[int], **config: Any) -> Any:
    key = "input_shape" if kind == "EfficientNet" else "image_shape"
    return getattr(hub().models, f"{kind}Backbone")(**config, **{key: tuple(shape)})


def _like_timm(kind: str, architecture: str, size: int = 64, **changes: Any) -> Builder:
    """An architecture that KerasHub can convert from timm, with the config of that conversion."""

    def builder() -> Any:
        hub()
        converter = importlib.import_module(f"keras_hub.src.utils.timm.convert_{kind.lower()}")
        config = converter.convert_backbone_config({"architecture": architecture, **_TIMM})
        return _backbone(kind, (size, size, 3), **{**config, **changes})

    return builder


_TIMM = {"pretrained_cfg": {"tag": "ssld_stage1_in22k_in1k"}}


def _like(kind: str, size: int, **config: Any) -> Builder:
    return lambda: _backbone(kind, (size, size, 3), **config)


def _resnet_vd(blocks: Sequence[int], block: str) -> Mapping[str, Any]:
    return {
        "input_conv_filters": [32, 32, 64],
        "input_conv_kernel_sizes": [3, 3, 3],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": list(blocks),
        "stackwise_num_strides": [1, 2, 2, 2],
        "block_type": f"{block}_vd",
    }


def _mit(depths: Sequence[int], widths: Sequence[int], size: int = 64) -> Mapping[str, Any]:
    return {
        "image_shape": (size, size, 3),
        "num_layers": 4,
        "hidden_dims": list(widths),
        "layerwise_depths": list(depths),
        "layerwise_num_heads": [1, 2, 5, 8],
        "layerwise_sr_ratios": [8, 4, 2, 1],
        "layerwise_patch_sizes": [7, 3, 3, 3],
        "layerwise_strides": [4, 2, 2, 2],
        "max_drop_path_rate": 0.1,
    }


_MITS = {
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256)),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512)),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512)),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512)),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512)),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512)),
}
# Layers, heads, width, hidden units of the MLPs.
_VITS = {
    "tiny": (12, 3, 192, 768),
    "small": (12, 6, 384, 1536),
    "base": (12, 12, 768, 3072),
}


def _vit(size: str) -> dict[str, int]:
    return dict(
        zip(("num_layers", "num_heads", "hidden_dim", "intermediate_dim"), _VITS[size], strict=True)
    )


def _plain_vit(size: str) -> dict[str, int]:
    config = _vit(size)
    hidden = config.pop("intermediate_dim")
    return {**config, "mlp_dim": hidden}


def _swin(embed: int, depths: Sequence[int], heads: Sequence[int]) -> Builder:
    # Windows of 4 rather than 7, which 128 x 128 pixels allow.
    config = {"embed_dim": embed, "depths": tuple(depths), "num_heads": tuple(heads)}
    return _like("SwinTransformer", 128, window_size=4, **config)


def _segformer(size: str) -> Builder:
    width = 256 if size in ("b0", "b1") else 768
    return lambda: hub().models.SegFormerBackbone(
        image_encoder=hub().models.MiTBackbone(**_mit(*_MITS[size])), projection_filters=width
    )


def _resnet(size: int = 64, architecture: str = "resnet50") -> Any:
    return _like_timm("ResNet", architecture, size)()


def _deeplab(low_level: str | None) -> Builder:
    return lambda: hub().models.DeepLabV3Backbone(
        image_encoder=_resnet(architecture="resnet50"),
        low_level_feature_key=low_level,
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[6, 12, 18],
        image_shape=(64, 64, 3),
    )


def _retinanet(batch_norm: bool) -> Builder:
    return lambda: hub().models.RetinaNetBackbone(
        image_encoder=_resnet(),
        min_level=3,
        max_level=7,
        use_p5=batch_norm,
        use_fpn_batch_norm=batch_norm,
        image_shape=(64, 64, 3),
    )


def _basnet(architecture: str) -> Builder:
    # The encoder has no image size of its own.
    return lambda: hub().models.BASNetBackbone(
        image_encoder=hub().models.ResNetBackbone(
            **{**_resnet(architecture=architecture).get_config(), "image_shape": (None, None, 3)}
        ),
        num_classes=1,
        image_shape=(64, 64, 3),
    )


def _vit_det(size: str) -> Builder:
    layers, heads, width, hidden = _VITS[size]
    return _like(
        "ViTDet",
        64,
        hidden_size=width,
        num_layers=layers,
        intermediate_dim=hidden,
        num_heads=heads,
        global_attention_layer_indices=[2, 5, 8, 11],
        window_size=2,
    )


def _dino(version: str, size: str, side: int = 4, **config: Any) -> Builder:
    patch = {"V2": 14, "V3": 16}[version]
    if version == "V2":
        config["position_embedding_shape"] = (5 * patch, 5 * patch, 3)
    return _like(f"DINO{version}", side * patch, patch_size=patch, **_vit(size), **config)


def _vision_encoder(kind: str, size: str, patch: int) -> Builder:
    return lambda: getattr(hub().models, f"{kind}VisionEncoder")(
        patch_size=patch, image_shape=(4 * patch, 4 * patch, 3), **_vit(size)
    )


def _depth_anything(size: str, neck: Sequence[int], width: int) -> Builder:
    return lambda: hub().models.DepthAnythingBackbone(
        image_encoder=_dino("V2", size, side=8)(),
        reassemble_factors=[4, 2, 1, 0.5],
        neck_hidden_dims=list(neck),
        fusion_hidden_dim=width,
        head_hidden_dim=32,
        head_in_index=-1,
        feature_keys=["stage3", "stage6", "stage9", "stage12"],
    )


def _mobilenet_v5() -> Any:
    # No preset of it is small: three stages of its block types.
    kinds = [["er"], ["uir", "uir"], ["uir", "mqa", "uir"]]
    counts = [len(kind) for kind in kinds]

    def same(*values: Any) -> list[list[Any]]:
        return [[value] * count for value, count in zip(values, counts, strict=True)]

    return _backbone(
        "MobileNetV5",
        (64, 64, 3),
        stackwise_block_types=kinds,
        stackwise_num_blocks=counts,
        stackwise_num_filters=same(24, 48, 64),
        stackwise_strides=[[2], [2, 1], [2, 1, 1]],
        stackwise_act_layers=same("gelu", "gelu", "gelu"),
        stackwise_exp_ratios=same(4.0, 6.0, 4.0),
        stackwise_se_ratios=same(0.0, 0.0, 0.0),
        stackwise_dw_kernel_sizes=same(0, 5, 5),
        stackwise_dw_start_kernel_sizes=same(0, 0, 3),
        stackwise_dw_end_kernel_sizes=same(0, 0, 0),
        stackwise_exp_kernel_sizes=same(3, 0, 0),
        stackwise_pw_kernel_sizes=same(1, 0, 0),
        stackwise_num_heads=same(0, 0, 4),
        stackwise_key_dims=same(0, 0, 16),
        stackwise_value_dims=same(0, 0, 16),
        stackwise_kv_strides=same(0, 0, 1),
        stackwise_use_cpe=same(False, False, False),
        use_msfa=False,
    )


def _xception(middle: int) -> Builder:
    return _like(
        "Xception",
        96,
        stackwise_conv_filters=[
            [32, 64],
            *([width] * 2 for width in (128, 256, 728)),
            *([[728] * 3] * middle),
            [728, 1024],
            [1536, 2048],
        ],
        stackwise_pooling=[False, True, True, True, *[False] * middle, True, False],
    )


_BOTTLENECK, _BASIC = "bottleneck_block", "basic_block"
_BUILDERS: dict[str, Builder] = {
    **{
        f"ResNet/{name}": _like_timm("ResNet", name)
        for name in ("resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet152")
    },
    **{
        f"ResNet/{name}": _like_timm("ResNet", name)
        for name in ("resnetv2_50", "resnetv2_101", "resnetv2_152")
    },
    "ResNet/vd18": _like("ResNet", 64, **_resnet_vd((2, 2, 2, 2), _BASIC)),
    "ResNet/vd34": _like("ResNet", 64, **_resnet_vd((3, 4, 6, 3), _BASIC)),
    "ResNet/vd50": _like("ResNet", 64, **_resnet_vd((3, 4, 6, 3), _BOTTLENECK)),
    "ResNet/vd101": _like("ResNet", 64, **_resnet_vd((3, 4, 23, 3), _BOTTLENECK)),
    "ResNet/vd152": _like("ResNet", 64, **_resnet_vd((3, 8, 36, 3), _BOTTLENECK)),
    "ResNet/vd200": _like("ResNet", 64, **_resnet_vd((3, 12, 48, 3), _BOTTLENECK)),
    **{
        f"CSPNet/{name}": _like_timm("CSPNet", name)
        for name in ("cspdarknet53", "cspresnet50", "cspresnext50", "darknet53")
    },
    **{f"DenseNet/{n}": _like_timm("DenseNet", f"densenet{n}") for n in (121, 169, 201)},
    **{
        f"EfficientNet/{name}": _like_timm("EfficientNet", f"efficientnet_{name}")
        for name in ("b0", "b1", "b2", "b3", "b4", "b5", "lite0", "es", "em", "el")
    },
    **{
        f"EfficientNet/v2_{name}": _like_timm("EfficientNet", f"efficientnet2_{name}")
        for name in ("rw_t", "rw_s", "rw_m")
    },
    **{
        f"MobileNet/{name}": _like_timm("MobileNet", f"mobilenetv3_{name}")
        for name in ("small_050", "small_100", "large_100")
    },
    "MobileNetV5/small": _mobilenet_v5,
    **{f"HGNetV2/b{n}": _like_timm("HGNetV2", f"hgnetv2_b{n}") for n in range(7)},
    **{f"VGG/{n}": _like_timm("VGG", f"vgg{n}") for n in (11, 13, 16, 19)},
    "Xception/41": _xception(8),
    "Xception/65": _xception(16),
    **{f"MiT/{n}": (lambda n=n: hub().models.MiTBackbone(**_mit(*_MITS[n]))) for n in _MITS},
    **{f"SegFormer/{n}": _segformer(n) for n in _MITS},
    "DeepLabV3/resnet50": _deeplab(None),
    "DeepLabV3/plus_resnet50": _deeplab("P2"),
    "RetinaNet/resnet50": _retinanet(False),
    "RetinaNet/resnet50_v2": _retinanet(True),
    "BASNet/resnet18": _basnet("resnet18"),
    "BASNet/resnet34": _basnet("resnet34"),
    "Swin/tiny": _swin(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "Swin/small": _swin(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "ViT/base": _like("ViT", 64, patch_size=(16, 16), **_plain_vit("base")),
    "ViTDet/base": _vit_det("base"),
    "DepthAnything/small": _depth_anything("small", (48, 96, 192, 384), 64),
}
for _size in ("tiny", "small"):
    _BUILDERS |= {
        f"ViT/{_size}": _like("ViT", 64, patch_size=(16, 16), **_plain_vit(_size)),
        f"DeiT/{_size}": _like("DeiT", 64, patch_size=16, **_vit(_size)),
        f"CLIP/{_size}": _vision_encoder("CLIP", _size, 16),
        f"SigLIP/{_size}": _vision_encoder("SigLIP", _size, 16),
        f"DINOV2/{_size}": _dino("V2", _size),
        f"DINOV2/{_size}_registers": _dino("V2", _size, num_register_tokens=4),
        f"DINOV3/{_size}": _dino("V3", _size),
    }
