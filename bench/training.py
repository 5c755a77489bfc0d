"""Speed of training steps."""

import functools

import numpy as np
import tensorflow as tf

from bench.figures import Figure, matmul_rate, rates_against
from parti_tf.config import EMOJI_64, ReconstructionLossConfig, TrainingConfig, VitConfig, VitVqganConfig
from parti_tf.models.vit_vqgan import VitVqgan
from parti_tf.training.optimizer import make_optimizer
from parti_tf.training.train_image_tokenizer import ImageTokenizerTraining

BATCH_SIZE = 32


def image_tokenizer_step() -> list[Figure]:
    """Rate of the image tokenizer's training step, L2 and VQ losses, over that of a matrix product."""
    config = EMOJI_64.image_tokenizer
    model = ImageTokenizerTraining(VitVqgan(config), ReconstructionLossConfig(perceptual=0.0))
    model.build()
    images = np.random.default_rng(0).random((BATCH_SIZE, config.image_size, config.image_size, 3), np.float32)
    operations = BATCH_SIZE * flop_per_image(config) / 1e9
    figures = []
    for jit_compile in (False, True):
        model.compile(optimizer=make_optimizer(TrainingConfig(), model.trainable_variables), jit_compile=jit_compile)
        batch = tf.constant(images)
        product = matmul_rate()
        rate, ratio = rates_against(product, operations, functools.partial(model.train_on_batch, batch))
        name = f"image tokenizer step, {'jitted' if jit_compile else 'not jitted'}"
        figures.append(Figure(name, rate, "GFLOP/s"))
        target = "" if jit_compile else ">= 0.75"
        figures.append(Figure(f"{name}: of a matrix product's rate", ratio, "x", target))
    return figures


def flop_per_image(config: VitVqganConfig) -> float:
    """Gives the multiply-adds of matrix products in one training step on one image, times two.

    The backward pass costs twice the forward pass. Codes are only looked for forward. What is not a matrix
    product counts as nothing.
    """
    length, patch = config.num_tokens, 3 * config.patch_size**2
    forward = _stack_flop(config.encoder, length, patch, config.encoder.model_dim)
    forward += 2 * length * config.encoder.model_dim * config.codebook_dim
    forward += _stack_flop(config.decoder, length, config.codebook_dim, patch)
    return 3 * forward + 2 * length * config.codebook_dim * config.codebook_size


def _stack_flop(stack: VitConfig, length: int, input_dim: int, output_dim: int) -> float:
    width, inner = stack.model_dim, stack.num_heads * stack.head_dim
    block = 2 * length * (4 * width * inner + 2 * width * stack.mlp_dim) + 4 * length**2 * inner
    ends = 2 * length * (input_dim * width + width * stack.mlp_dim + stack.mlp_dim * output_dim)
    return stack.num_layers * block + ends
