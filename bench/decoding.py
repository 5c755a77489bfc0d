"""Speed and memory of drawing image tokens."""

import dataclasses
import functools
import time

import keras
import numpy as np
import tensorflow as tf

from bench.figures import (
    Figure,
    cpu_seconds,
    machine_rates,
    matvec_bandwidth,
    peak_memory,
    random_text_ids,
    rates_against,
    seconds,
    use_threads,
)
from parti_tf.config import PARTI_350M, EncoderDecoderConfig
from parti_tf.generation.image_tokens import ImageTokenSampler, SamplingRows
from parti_tf.models.encoder_decoder import EncoderDecoder

# The size at which open implementations can be compared on a laptop: 256 tokens of 8192 codes.
SMALL = EncoderDecoderConfig(4, 4, model_dim=256, mlp_dim=1024, num_heads=8, grid_size=16)
BANDWIDTH_STEPS = 48
CPU_TARGETS = {(True, 1): 0.30, (True, 4): 0.16, (False, 1): 0.42, (False, 4): 0.24}


def small_model() -> list[Figure]:
    """Processor seconds an image on one thread, guidance on, text encoding included."""
    use_threads(1)
    model = _model(SMALL)
    figures = machine_rates()
    for (jit_compile, batch_size), target in CPU_TARGETS.items():
        sample = tf.function(_sampler(model, jit_compile).sample, jit_compile=jit_compile)
        inputs = _inputs(SMALL, batch_size)
        figures.append(
            Figure(
                f"small, batch {batch_size}, {_how(jit_compile)}",
                cpu_seconds(functools.partial(sample, *inputs)) / batch_size,
                "CPU-s an image",
                f"<= {target:.2f}",
            )
        )
    return figures


def position() -> list[Figure]:
    """Time of the last hundred tokens over that of the first hundred, 1024 tokens, windowed attention."""
    use_threads(1)
    config = dataclasses.replace(SMALL, grid_size=32)
    sampler = _sampler(_model(config), jit_compile=False)
    start, advance = tf.function(sampler.start), tf.function(sampler.advance, reduce_retracing=True)
    text_ids, rows = _inputs(config, 1)
    first = start(text_ids)
    last = advance(first, rows, config.num_tokens - 100)
    pairs = []
    for _ in range(7):
        times = [seconds(functools.partial(advance, state, rows, 100), 1) for state in (first, last)]
        pairs.append(times[1] / times[0])
    return [Figure("last 100 tokens over first 100, of 1024", float(np.median(pairs)), "x", "0.90 to 1.10")]


def kernel_order() -> list[Figure]:
    """Rate at which a two-row product reads kernels of Parti-350M's MLP, by the order they are kept in; one thread."""
    use_threads(1)
    narrow, wide, steps = PARTI_350M.model_dim, PARTI_350M.mlp_dim, 50
    shapes = {"a row per output": ((wide, narrow), (narrow, wide)), "a row per input": ((narrow, wide), (wide, narrow))}
    figures = []
    for order, pair in shapes.items():
        kernels = [tf.Variable(tf.random.stateless_normal(shape, [0, 0], stddev=0.01)) for shape in pair]
        turned = order == "a row per output"

        @tf.function
        def run(rows, kernels=kernels, turned=turned):
            def body(rows):
                for kernel in kernels:
                    rows = tf.matmul(rows, tf.transpose(kernel) if turned else kernel)
                return (rows,)

            return tf.while_loop(lambda _: True, body, (rows,), maximum_iterations=steps)

        taken = cpu_seconds(functools.partial(run, tf.ones([2, narrow])), 9)
        figures.append(Figure(f"kernels with {order}", steps * 8 * narrow * wide / 1e9 / taken, "GB/s"))
    return figures


def parti_350m() -> list[Figure]:
    """How near Parti-350M comes to reading the decoder's weights at the speed of memory, batch 1, guidance on."""
    use_threads(2)
    model = _model(PARTI_350M)
    read = 4 * (_weights(model.decoder_blocks) + _weights([model.logits])) / 1e9  # GB a token
    bandwidth = matvec_bandwidth()
    text_ids, rows = _inputs(PARTI_350M, 1)
    figures = []
    for jit_compile in (False, True):
        sampler = _sampler(model, jit_compile)
        state = tf.function(sampler.start, jit_compile=jit_compile)(text_ids)
        advance = tf.function(sampler.advance, jit_compile=jit_compile)
        draw = functools.partial(advance, state, rows, BANDWIDTH_STEPS)
        rate, ratio = rates_against(bandwidth, read * BANDWIDTH_STEPS, draw)
        name = f"Parti-350M, {_how(jit_compile)}"
        figures.append(Figure(f"{name}: weights read", rate, "GB/s"))
        target = "" if jit_compile else ">= 0.75"
        figures.append(Figure(f"{name}: of a matrix-vector product's rate", ratio, "x", target))
    return figures


def parti_350m_memory() -> list[Figure]:
    """Peak memory of a process that generates with Parti-350M, over the bytes of its weights."""
    use_threads(2)
    model = _model(PARTI_350M)
    weights = 4 * _weights([model]) / 1e9
    sampler = _sampler(model, jit_compile=False)
    text_ids, rows = _inputs(PARTI_350M, 1)
    begin = time.perf_counter()
    tf.function(sampler.sample)(text_ids, rows).numpy()
    return [
        Figure("Parti-350M, one image of 1024 tokens", time.perf_counter() - begin, "s"),
        Figure("Parti-350M, peak memory over weights", peak_memory() / weights, "x", "<= 1.50"),
    ]


def _how(jit_compile: bool) -> str:
    return "jitted" if jit_compile else "not jitted"


def _model(config: EncoderDecoderConfig) -> EncoderDecoder:
    model = EncoderDecoder(config)
    model.build()
    return model


def _sampler(model: EncoderDecoder, jit_compile: bool) -> ImageTokenSampler:
    empty = np.eye(1, model.config.text_length, dtype="int32")[0]
    return ImageTokenSampler(model, empty, jit_compile)


def _inputs(config: EncoderDecoderConfig, batch_size: int) -> tuple[tf.Tensor, SamplingRows]:
    rows = tf.range(batch_size)
    return random_text_ids(batch_size, config.text_length, config.text_vocab_size), SamplingRows(
        seed=tf.stack([rows, rows], axis=1),
        guidance_scale=tf.fill([batch_size], 3.0),
        temperature=tf.ones([batch_size]),
        top_k=tf.zeros([batch_size], tf.int32),
        top_p=tf.ones([batch_size]),
    )


def _weights(layers: list[keras.layers.Layer]) -> int:
    return sum(layer.count_params() for layer in layers)
