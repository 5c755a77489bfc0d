import dataclasses

import numpy as np
import pytest

from parti_tf.config import ReconstructionLossConfig
from parti_tf.layers.vector_quantizer import Quantized
from parti_tf.models.vit_vqgan import Reconstruction
from parti_tf.training.reconstruction_losses import (
    CodebookUse,
    ReconstructionLosses,
    l2_loss,
    peak_signal_to_noise_ratio,
)

WEIGHTS = ReconstructionLossConfig(l2=2.0, perceptual=3.0, vq=5.0, commitment=0.5)
IMAGES = np.zeros((2, 2, 2, 3), np.float32)
RECONSTRUCTION = Reconstruction(np.full_like(IMAGES, 0.1), Quantized(None, None, 0.7, 0.9))


def distance(images, reconstructions):
    return np.abs(images - reconstructions).mean(axis=(1, 2, 3))


def test_l2_is_the_mean_square_over_pixels():
    images = np.array([[[[0.0, 0.5, 1.0]]]])
    assert float(l2_loss(images, np.array([[[[0.0, 0.0, 0.0]]]]))) == pytest.approx((0.25 + 1.0) / 3)


def test_psnr_is_of_each_image_after_clipping():
    images = np.zeros((3, 2, 2, 3), np.float32)
    made = np.stack([np.full((2, 2, 3), value, np.float32) for value in (0.1, 1.0, -5.0)])
    # -10 log10(0.01) = 20; of a full error 0; a value below 0 counts as 0, and equal images are held at 100.
    np.testing.assert_allclose(peak_signal_to_noise_ratio(images, made), [20.0, 0.0, 100.0], atol=1e-4)


def test_the_total_is_the_weighted_sum_of_the_parts():
    losses = ReconstructionLosses(WEIGHTS, distance)
    parts = losses.parts(IMAGES, RECONSTRUCTION)
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(
        {"l2_loss": 0.01, "perceptual_loss": 0.1, "codebook_loss": 0.7, "commitment_loss": 0.9}
    )
    # 2 * 0.01 + 3 * 0.1 + 5 * (0.7 + 0.5 * 0.9)
    assert float(losses.total(parts)) == pytest.approx(6.07)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(ReconstructionLossConfig)])
def test_every_weight_changes_the_total(name):
    def total(weights: ReconstructionLossConfig) -> float:
        losses = ReconstructionLosses(weights, distance)
        return float(losses.total(losses.parts(IMAGES, RECONSTRUCTION)))

    heavier = dataclasses.replace(WEIGHTS, **{name: 2 * getattr(WEIGHTS, name)})
    assert total(heavier) > total(WEIGHTS)


def test_a_part_of_weight_0_is_not_computed_and_needs_no_network():
    losses = ReconstructionLosses(dataclasses.replace(WEIGHTS, perceptual=0.0, commitment=0.0))
    assert set(losses.parts(IMAGES, RECONSTRUCTION)) == {"l2_loss", "codebook_loss"}


def test_a_perceptual_weight_without_a_network_is_refused():
    with pytest.raises(ValueError, match=r"losses.perceptual is 3.0, which needs a perceptual network"):
        ReconstructionLosses(WEIGHTS)


def test_codebook_use_adds_up_batches_and_starts_anew():
    use = CodebookUse(codebook_size=8)
    use.update_state(np.array([[0, 0], [1, 1]], np.int32))
    use.update_state(np.array([[2, 2], [3, 3]], np.int32))
    # Four of eight codes, each a quarter of the time: 2 bits.
    assert {name: float(value) for name, value in use.result().items()} == pytest.approx(
        {"codebook_usage": 0.5, "codebook_perplexity": 4.0}
    )
    use.reset_state()
    use.update_state(np.array([[5, 5]], np.int32))
    assert {name: float(value) for name, value in use.result().items()} == pytest.approx(
        {"codebook_usage": 0.125, "codebook_perplexity": 1.0}
    )
