"""What the image tokenizer learns from: VQ, L2 and perceptual losses (ViT-VQGAN 3.3, Eq. 1), and how well it does."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from parti_tf.config import ReconstructionLossConfig
from parti_tf.models.vit_vqgan import Reconstruction


def l2_loss(images, reconstructions):
    """Gives the mean squared error over pixels in [0, 1]. Scalar."""
    return ops.mean(ops.square(reconstructions - images))


def peak_signal_to_noise_ratio(images, reconstructions):
    """Gives PSNR in dB against a peak of 1, of reconstructions clipped to [0, 1]. `[B]`."""
    error = ops.mean(ops.square(ops.clip(reconstructions, 0.0, 1.0) - images), axis=(1, 2, 3))
    return -10.0 / math.log(10.0) * ops.log(ops.maximum(error, 1e-10))


class ReconstructionLosses:
    """The weighted sum of the tokenizer's losses (ViT-VQGAN 3.3).

    A loss of weight 0 is not computed, so its network is not needed. An adversarial loss takes its place here
    as one more entry of the dict.

    Args:
      weights: of the parts.
      perceptual_distance: gives the distance of each pair, `[B]`, of two batches of images `[B, H, W, 3]`.

    Raises:
      ValueError: the perceptual weight is positive and no distance is given.
    """

    def __init__(self, weights: ReconstructionLossConfig, perceptual_distance: Callable[[Any, Any], Any] | None = None):
        if weights.perceptual and perceptual_distance is None:
            raise ValueError(f"losses.perceptual is {weights.perceptual}, which needs a perceptual network")
        self.perceptual_distance: Any = perceptual_distance
        self.weights = {
            name: weight
            for name, weight in (
                ("l2_loss", weights.l2),
                ("perceptual_loss", weights.perceptual),
                ("codebook_loss", weights.vq),
                ("commitment_loss", weights.vq * weights.commitment),
            )
            if weight
        }

    def parts(self, images, reconstruction: Reconstruction) -> dict[str, Any]:
        """Gives each loss by name, unweighted."""
        quantized = reconstruction.quantized
        compute = {
            "l2_loss": lambda: l2_loss(images, reconstruction.images),
            "perceptual_loss": lambda: ops.mean(self.perceptual_distance(images, reconstruction.images)),
            "codebook_loss": lambda: quantized.codebook_loss,
            "commitment_loss": lambda: quantized.commitment_loss,
        }
        return {name: compute[name]() for name in self.weights}

    def total(self, parts: dict[str, Any]):
        """Gives the weighted sum of `parts`. Scalar."""
        return sum(self.weights[name] * value for name, value in parts.items())


@keras.saving.register_keras_serializable("parti_tf")
class CodebookUse(keras.metrics.Metric):
    """How much of the codebook a set of images uses.

    Its result is a dict: `codebook_usage`, the share of codes used at least once, in [0, 1], and
    `codebook_perplexity`, 2 to the entropy in bits of how often each is used, in [1, codebook_size].
    """

    def __init__(self, codebook_size: int, name: str = "codebook", **kwargs):
        super().__init__(name=name, **kwargs)
        self.codebook_size = codebook_size
        self.counts = self.add_variable(shape=(codebook_size,), initializer="zeros", name="counts")

    def update_state(self, tokens, sample_weight=None):
        """Counts tokens int32 `[B, L]`."""
        del sample_weight
        tokens = ops.reshape(tokens, (-1,))
        ones = ops.ones_like(tokens, dtype="float32")
        self.counts.assign_add(ops.segment_sum(ones, tokens, num_segments=self.codebook_size))

    def result(self):
        share = self.counts / ops.maximum(ops.sum(self.counts), 1.0)
        entropy = -ops.sum(share * ops.log(ops.maximum(share, 1e-12)))
        usage = ops.mean(ops.cast(self.counts > 0, "float32"))
        return {"codebook_usage": usage, "codebook_perplexity": ops.exp(entropy)}
