import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from parti_tf.config import VIT_VQGAN_BASE, VIT_VQGAN_LARGE, VIT_VQGAN_SMALL
from parti_tf.models.vit_vqgan import VitVqgan, images_to_patches, patches_to_images
from tests import tiny
from tests.tiny import tiny_image_tokenizer


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).random((3, 16, 16, 3), np.float32)


@pytest.fixture(scope="module")
def model() -> VitVqgan:
    return tiny_image_tokenizer()


def num_weights(layers) -> int:
    return sum(int(np.prod(weight.shape)) for layer in layers for weight in layer.weights)


# ViT-VQGAN Table 2, one side: L blocks of 4 D I in attention (inner width I = 64 a head), 2 D F in the MLP,
# F + D biases of the MLP and 4 D of the two LayerNorms.
#   Small    8 (4  512  512 + 2  512 2048 + 2048 +  512 + 4  512)
#   Base    12 (4  768  768 + 2  768 3072 + 3072 +  768 + 4  768)
#   Large   32 (4 1280 1024 + 2 1280 5120 + 5120 + 1280 + 4 1280)
@pytest.mark.parametrize(
    ("config", "expected", "millions"),
    [
        (VIT_VQGAN_SMALL, 25_202_688, 25.2),
        (VIT_VQGAN_BASE, 85_017_600, 85.0),
        (VIT_VQGAN_LARGE, 587_571_200, 587.6),
    ],
    ids=["small", "base", "large"],
)
def test_published_sizes(config, expected, millions):
    with keras.StatelessScope(initialize_variables=False):  # sizes without the memory
        model = VitVqgan(config)
        model.build()
    for side in (model.encoder, model.decoder):
        blocks = num_weights(side.blocks)
        assert blocks == expected
        assert blocks / 1e6 == pytest.approx(millions, abs=0.05)
    assert model.quantizer.codebook.shape == (8192, 32)


def test_large_with_its_head_and_positions_is_the_published_599m():
    with keras.StatelessScope(initialize_variables=False):
        model = VitVqgan(VIT_VQGAN_LARGE)
        model.build()
    # 587.6M + head 1280 x 5120 + 5120 x 1280 + patches and positions.
    assert num_weights([model.encoder]) / 1e6 == pytest.approx(599, rel=0.005)


def test_patches_are_in_raster_order_and_join_again(images):
    patches = np.asarray(images_to_patches(images, 4))
    assert patches.shape == (3, 16, 48)
    np.testing.assert_array_equal(patches[1, 6], images[1, 4:8, 8:12].reshape(-1))  # row 1, column 2 of 4
    np.testing.assert_array_equal(patches_to_images(patches, 4, 4), images)


def test_outputs(model, images):
    images_out, quantized = model(images)
    assert images_out.shape == images.shape
    assert keras.backend.standardize_dtype(images_out.dtype) == "float32"
    assert quantized.tokens.shape == (3, 16)
    assert quantized.codes.shape == (3, 16, 4)
    np.testing.assert_array_equal(model.tokenize(images), quantized.tokens)
    # The call is to tokenize and to detokenize, but for the clipping.
    np.testing.assert_allclose(model.detokenize(quantized.tokens), np.clip(images_out, 0, 1), atol=1e-5)


def test_the_sides_read_and_write_pixels_between_minus_1_and_1(model, images):
    vectors = model.code_projection(model.encoder(images_to_patches(2 * images - 1, 4)))
    np.testing.assert_allclose(model.encode(images), vectors, atol=1e-5)
    codes = model.quantizer.lookup(model.tokenize(images))
    pixels = np.asarray(patches_to_images(model.decoder(codes), 4, 4))
    np.testing.assert_allclose(model.decode(codes), (pixels + 1) / 2, atol=1e-5)


def test_pixels_may_leave_the_range_until_detokenize_clips_them(model, images):
    unclipped = np.asarray(model(images).images)
    assert unclipped.min() < 0
    assert unclipped.max() > 1
    tokens = np.arange(32).reshape(2, 16) % 24
    pictures = np.asarray(model.detokenize(tokens))
    assert pictures.shape == (2, 16, 16, 3)
    assert pictures.min() == 0
    assert pictures.max() == 1


def test_an_image_is_tokenized_alone(model, images):
    np.testing.assert_array_equal(model.tokenize(images[1:2]), np.asarray(model.tokenize(images))[1:2])


def test_every_patch_sees_every_other(model, images):
    changed = images.copy()
    changed[:, :4, :4] = 1 - changed[:, :4, :4]
    difference = np.abs(np.asarray(model.encode(changed) - model.encode(images))).max((0, 2))
    assert (difference > 1e-4).all()


@pytest.mark.parametrize("shape", [(16, 16, 3), (1, 16, 16), (1, 16, 16, 1), (1, 12, 16, 3), (1, 4, 16, 16, 3)])
def test_images_of_another_size_or_rank_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"images have shape .*; this model takes \[batch, 16, 16, 3\]"):
        model.tokenize(np.zeros(shape, np.float32))


def test_bytes_are_refused(model):
    with pytest.raises(ValueError, match=r"images are uint8; this model takes floats in \[0, 1\]"):
        model.tokenize(np.zeros((1, 16, 16, 3), np.uint8))


def test_gradients_reach_both_sides_through_the_codes(model, images):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(images).images - images))
    gradients = dict(
        zip([w.path for w in model.trainable_variables], tape.gradient(loss, model.trainable_variables), strict=True)
    )
    missing = [path for path, gradient in gradients.items() if gradient is None]
    assert missing == [model.quantizer.codebook.path]  # codes are moved by their own loss alone
    flat = [path for path, gradient in gradients.items() if gradient is not None and not np.any(gradient)]
    assert not flat


def test_tanh_is_in_the_head_alone_and_activation_in_the_blocks(images):
    gelu, relu = tiny_image_tokenizer(), tiny_image_tokenizer(encoder=dataclasses.replace(tiny.VIT, activation="relu"))
    assert np.abs(np.asarray(gelu.encode(images) - relu.encode(images))).max() > 1e-3
    for side, activation in ((gelu.encoder, "gelu"), (relu.encoder, "relu")):
        assert side.head_in.activation == "tanh"
        assert side.head_out.activation is None
        assert [block.mlp_in.activation for block in side.blocks] == [activation]
    # A head of weights without bound gives hidden values of +-1 alone: outputs are sums of +- its second kernel.
    side = gelu.decoder
    side.head_in.kernel.assign(1e6 * side.head_in.kernel)
    limit = np.abs(np.asarray(side.head_out.kernel)).sum(1) + np.abs(np.asarray(side.head_out.bias))
    outputs = np.asarray(side(np.random.default_rng(1).normal(size=(2, 16, 4)).astype("float32")))
    assert (np.abs(outputs) <= limit + 1e-4).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": dataclasses.replace(tiny.VIT, dropout_rate=0.5)},
        {"decoder": dataclasses.replace(tiny.VIT, dropout_rate=0.5)},
    ],
    ids=["encoder", "decoder"],
)
def test_dropout_is_for_training(images, changes):
    model = tiny_image_tokenizer(**changes)
    codes = np.random.default_rng(0).normal(size=(2, 16, 4)).astype("float32")
    side, inputs = (model.encode, images) if "encoder" in changes else (model.decode, codes)
    np.testing.assert_array_equal(side(inputs), side(inputs))
    assert np.abs(np.asarray(side(inputs, training=True) - side(inputs))).max() > 1e-3


def test_sides_may_differ(images):
    large = dataclasses.replace(tiny.VIT, num_layers=2, model_dim=24, mlp_dim=40, num_heads=3)
    model = tiny_image_tokenizer(decoder=large)
    assert num_weights(model.decoder.blocks) > 2 * num_weights(model.encoder.blocks)
    assert model(images).images.shape == images.shape


def test_the_first_training_call_takes_the_codebook_from_the_images(images):
    model = VitVqgan(tiny.VIT_VQGAN)
    model.build()
    before = len(np.unique(model.tokenize(images)))
    model(images, training=True)
    # 24 codes at 24 of the 48 patches' vectors, each nearest to itself.
    assert len(np.unique(model.tokenize(images))) == 24 > before


def test_it_is_made_again_from_its_config(model, images):
    again = VitVqgan.from_config(json.loads(json.dumps(model.get_config())))
    again.build()
    assert again.config == model.config
    assert [weight.path for weight in again.weights] == [weight.path for weight in model.weights]
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(images).images, model(images).images)


def test_keras_saves_and_loads_it(model, images, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.tokenize(images), model.tokenize(images))


def test_bfloat16_gives_float32_pixels_near_those_of_float32(model, images):
    low = VitVqgan(tiny.VIT_VQGAN, dtype="mixed_bfloat16")
    low.build()
    low.set_weights(model.get_weights())
    assert keras.backend.standardize_dtype(low.encode(images).dtype) == "bfloat16"
    codes = model.quantizer.lookup(model.tokenize(images))
    pictures = low.decode(ops.cast(codes, "bfloat16"))
    assert keras.backend.standardize_dtype(pictures.dtype) == "float32"
    np.testing.assert_allclose(pictures, model.decode(codes), atol=0.1)
