import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from parti_tf.config import VitConfig, VitVqganConfig
from parti_tf.data.examples import ImageTextExample
from parti_tf.evaluation.gallery import Gallery
from parti_tf.evaluation.options import EvaluateTokenizerOptions
from parti_tf.evaluation.reconstruction import (
    evaluate_image_tokenizer,
    measure_codebook_use,
    peak_signal_to_noise_ratio,
    reconstruct,
)
from parti_tf.models.vit_vqgan import VitVqgan

SIDE = VitConfig(num_layers=1, model_dim=8, mlp_dim=8, num_heads=1, head_dim=8)
CONFIG = VitVqganConfig(encoder=SIDE, decoder=SIDE, image_size=8, patch_size=4, codebook_size=16, codebook_dim=4)


@pytest.fixture(scope="module")
def tokenizer() -> VitVqgan:
    tokenizer = VitVqgan(CONFIG)
    tokenizer.build()
    return tokenizer


@pytest.fixture
def gallery() -> Gallery:
    splits = ["train"] * 2 + ["attr"] * 5 + ["style"] * 4
    examples = [ImageTextExample(f"noto:{index}", f"caption {index}") for index in range(len(splits))]
    images = np.random.default_rng(0).integers(0, 256, (len(splits), 8, 8, 3), dtype=np.uint8)
    return Gallery(examples, splits, images)


def test_psnr_is_of_each_image_by_itself():
    images = np.full((3, 2, 2, 3), 100, np.uint8)
    others = images.copy()
    others[1] = 151  # 51 = 255 / 5, so the error is 1 / 25: 10 log10 25
    others[2, 0, 0, 0] = 49  # one of twelve values: 1 / 300
    expected = [100, 10 * math.log10(25), 10 * math.log10(300)]
    np.testing.assert_allclose(peak_signal_to_noise_ratio(images, others), expected)


def test_codebook_use():
    use = measure_codebook_use(np.array([[0, 0], [3, 5]]), codebook_size=8)
    assert use.usage == 3 / 8
    assert use.perplexity == pytest.approx(2**1.5)  # entropy 0.5 * 1 + 2 * 0.25 * 2 = 1.5 bits
    assert measure_codebook_use(np.arange(8), 8) == pytest.approx((1, 8))


def test_reconstructions_are_those_of_the_model_one_by_one(tokenizer, gallery):
    tokens, reconstructions = reconstruct(tokenizer, gallery.images, batch_size=4)  # 11 = 4 + 4 + 3
    assert tokens.shape == (11, 4)
    for row in (0, 7, 10):
        expected = tokenizer.tokenize(gallery.images[row : row + 1] / np.float32(255))
        np.testing.assert_array_equal(tokens[row], expected[0])
        pixels = np.asarray(tokenizer.detokenize(expected))[0] * 255
        np.testing.assert_allclose(reconstructions[row], pixels, atol=0.51)


def test_figures_are_of_the_splits_and_of_as_many_images_as_asked(tokenizer, gallery, tmp_path):
    options = EvaluateTokenizerOptions(pictures=str(tmp_path), num_images=6, num_pictures=3, batch_size=4)
    figures = evaluate_image_tokenizer(tokenizer, CONFIG.codebook_size, gallery, options)
    assert {name: part["images"] for name, part in figures.items()} == {"unseen": 6, "attr": 5, "style": 4}
    tokens, reconstructions = reconstruct(tokenizer, gallery.images[2:7], batch_size=5)
    psnr = peak_signal_to_noise_ratio(gallery.images[2:7], reconstructions)
    assert figures["attr"]["psnr"] == pytest.approx(np.mean(psnr))
    assert figures["attr"]["codebook_usage"] == len(np.unique(tokens)) / 16
    sheet = Image.open(tmp_path / "reconstructions.png")
    more = EvaluateTokenizerOptions(pictures=str(tmp_path), num_images=6, num_pictures=6, batch_size=4)
    evaluate_image_tokenizer(tokenizer, CONFIG.codebook_size, gallery, more)
    assert Image.open(tmp_path / "reconstructions.png").height > sheet.height


def test_a_tokenizer_that_loses_nothing_gets_the_most(gallery, tmp_path):
    class Lossless:
        """Every pixel is three tokens."""

        def tokenize(self, images):
            return tf.cast(tf.round(tf.reshape(images, (tf.shape(images)[0], -1)) * 255), tf.int32)

        def detokenize(self, image_tokens):
            return tf.reshape(tf.cast(image_tokens, tf.float32) / 255, (-1, 8, 8, 3))

    options = EvaluateTokenizerOptions(pictures=str(tmp_path))
    figures = evaluate_image_tokenizer(Lossless(), 256, gallery, options)
    assert figures["unseen"]["images"] == 9
    assert figures["unseen"]["psnr"] == pytest.approx(100)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"EvaluateTokenizerOptions\.num_images is 0; it must be at least 1"):
        EvaluateTokenizerOptions(num_images=0)
    with pytest.raises(ValueError, match=r"EvaluateTokenizerOptions\.num_pictures is 0"):
        EvaluateTokenizerOptions(num_pictures=0)
    with pytest.raises(ValueError, match=r"EvaluateTokenizerOptions\.batch_size is -1"):
        EvaluateTokenizerOptions(batch_size=-1)
    with pytest.raises(ValueError, match=r"EvaluateTokenizerOptions\.seed is -1; it must be at least 0"):
        EvaluateTokenizerOptions(seed=-1)
