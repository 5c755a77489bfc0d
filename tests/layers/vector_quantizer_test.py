import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from parti_tf.layers.vector_quantizer import VectorQuantizer


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def quantizer(codebook_size: int = 8, codebook_dim: int = 3, **options) -> VectorQuantizer:
    layer = VectorQuantizer(codebook_size, codebook_dim, **options)
    layer.build(None)
    layer.codebook.assign(random_vectors(codebook_size, codebook_dim, seed=2))
    return layer


def settled(codes: np.ndarray, **options) -> VectorQuantizer:
    """Gives a quantizer of these codes, every one of them well used."""
    layer = quantizer(*codes.shape, **options)
    layer.codebook.assign(codes)
    layer.usage.assign(np.full(len(codes), 100.0))
    return layer


def random_vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def test_a_vector_becomes_the_code_of_largest_cosine():
    layer, vectors = quantizer(), random_vectors(2, 5, 3)
    codebook = unit(np.asarray(layer.codebook))
    nearest = (unit(vectors) @ codebook.T).argmax(-1)
    quantized = layer(vectors)
    assert keras.backend.standardize_dtype(quantized.tokens.dtype) == "int32"
    np.testing.assert_array_equal(quantized.tokens, nearest)
    np.testing.assert_array_equal(layer.tokenize(vectors), nearest)
    np.testing.assert_allclose(quantized.codes, codebook[nearest], atol=1e-6)
    np.testing.assert_allclose(layer.lookup(nearest), codebook[nearest], atol=1e-6)


def test_only_directions_count():
    layer, vectors = quantizer(), random_vectors(2, 5, 3)
    tokens = layer.tokenize(vectors)
    np.testing.assert_array_equal(layer.tokenize(1000.0 * vectors), tokens)
    layer.codebook.assign(layer.codebook * np.arange(1, 9)[:, None])
    np.testing.assert_array_equal(layer.tokenize(vectors), tokens)


def test_losses_are_mean_squares_between_unit_vectors():
    layer, vectors = quantizer(), random_vectors(2, 5, 3)
    quantized = layer(vectors)
    expected = np.mean((unit(vectors) - np.asarray(quantized.codes)) ** 2)
    np.testing.assert_allclose(quantized.codebook_loss, expected, rtol=1e-5)
    np.testing.assert_allclose(quantized.commitment_loss, expected, rtol=1e-5)


def test_each_loss_moves_one_side_only_and_codes_pass_gradients_straight_through():
    layer, vectors = quantizer(), tf.Variable(random_vectors(2, 5, 3))
    weights = random_vectors(2, 5, 3, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        quantized = layer(vectors)
        through = tf.reduce_sum(weights * quantized.codes)
        straight = tf.reduce_sum(weights * tf.math.l2_normalize(vectors, axis=-1))
    codebook = layer.codebook.value
    assert tape.gradient(quantized.codebook_loss, vectors) is None
    assert np.abs(tf.convert_to_tensor(tape.gradient(quantized.codebook_loss, codebook))).max() > 1e-4
    assert tape.gradient(quantized.commitment_loss, codebook) is None
    assert np.abs(tape.gradient(quantized.commitment_loss, vectors)).max() > 1e-4
    assert tape.gradient(through, codebook) is None
    np.testing.assert_allclose(tape.gradient(through, vectors), tape.gradient(straight, vectors), atol=1e-5)


def is_one_of(codes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Gives for each code whether it equals one of the vectors."""
    return np.isclose(np.asarray(codes)[:, None], unit(vectors.reshape(-1, codes.shape[-1])), atol=1e-6).all(-1).any(-1)


def test_the_first_training_step_takes_all_codes_from_the_encoder():
    layer = quantizer()
    # All vectors point one way, so a single one of the first random codes is the nearest of all.
    vectors = random_vectors(4, 10, 3) * 0.1 + np.array([3.0, 0.0, 0.0], "float32")
    first = np.asarray(layer.codebook)
    assert len(np.unique(layer(vectors, training=False).tokens)) < 3
    np.testing.assert_array_equal(layer.codebook, first)  # nothing changes outside training
    layer(vectors, training=True)
    assert is_one_of(layer.codebook, vectors).all()
    assert len(np.unique(np.asarray(layer.codebook), axis=0)) == 8  # eight vectors, not one of them eight times
    assert len(np.unique(layer(vectors).tokens)) == 8


def test_a_codebook_larger_than_the_batch_is_filled_all_the_same():
    layer, vectors = quantizer(codebook_size=8), random_vectors(1, 5, 3)
    layer(vectors, training=True)
    assert is_one_of(layer.codebook, vectors).all()
    assert len(np.unique(np.asarray(layer.codebook), axis=0)) == 5


AXES = np.concatenate([np.eye(3), -np.eye(3)]).astype("float32")


@pytest.mark.parametrize("dead", [0, 2, 5])
def test_a_dead_code_is_restarted_at_a_badly_served_vector_and_the_others_stay(dead):
    layer = settled(AXES)
    layer.usage.assign(np.where(np.arange(6) == dead, 0.0, 100.0))
    # Every vector is served exactly but one, which lies between the axes.
    vectors = AXES[np.arange(40) % 6]
    vectors[17] = unit(np.array([1.0, 1.0, -1.0]))
    tokens = np.asarray(layer(vectors[None], training=True).tokens)
    changed = np.abs(np.asarray(layer.codebook) - AXES).max(-1) > 0
    assert np.flatnonzero(changed).tolist() == [dead]
    np.testing.assert_allclose(np.asarray(layer.codebook)[dead], vectors[17], atol=1e-6)
    # It starts again from an even share of 40 / 6, so the next steps leave it where it is.
    expected = 0.97 * 40 / 6 + 0.03 * (tokens == dead).sum()
    np.testing.assert_allclose(np.asarray(layer.usage)[dead], expected, rtol=1e-5)


def test_several_dead_codes_get_different_vectors():
    layer = settled(AXES)
    layer.usage.assign(np.array([0.0, 100.0, 0.0, 100.0, 100.0, 0.0]))
    vectors = random_vectors(1, 30, 3)
    layer(vectors, training=True)
    assert is_one_of(layer.codebook, vectors).tolist() == [True, False, True, False, False, True]
    assert len(np.unique(np.asarray(layer.codebook)[[0, 2, 5]], axis=0)) == 3


def test_usage_is_a_running_mean_of_counts():
    layer = settled(AXES, usage_decay=0.75)
    vectors = AXES[[0, 0, 0, 1, 5, 5]][None]
    layer(vectors, training=True)
    np.testing.assert_allclose(layer.usage, 75.0 + 0.25 * np.array([3, 1, 0, 0, 0, 2]), rtol=1e-6)
    layer(vectors, training=False)
    np.testing.assert_allclose(layer.usage, 75.0 + 0.25 * np.array([3, 1, 0, 0, 0, 2]), rtol=1e-6)


def steps_until_restarted(**options) -> int:
    """Trains on one axis alone, from an even share for all, until a code is restarted."""
    layer = settled(AXES, **options)
    vectors = np.repeat(unit(np.array([[3.0, 1.0, 0.0]], "float32")), 60, axis=0)[None]
    layer.usage.assign(np.full(6, 10.0))  # 60 vectors to 6 codes
    for step in range(60):
        layer(vectors, training=True)
        if not np.array_equal(layer.codebook, AXES):
            return step
    return 60


def test_how_long_a_code_may_stay_unused():
    # 0.5**n falls below 0.1 at n = 4 and below 0.3 at n = 2; 0.8**n below 0.1 at n = 11.
    assert steps_until_restarted(usage_decay=0.5, restart_below=0.1) == 4
    assert steps_until_restarted(usage_decay=0.5, restart_below=0.3) == 2
    assert steps_until_restarted(usage_decay=0.8, restart_below=0.1) == 11
    assert steps_until_restarted(usage_decay=0.5, restart_below=0.0) == 60


def test_it_runs_compiled_by_xla():
    vectors = random_vectors(2, 20, 3)
    layers = quantizer(), quantizer()
    layers[1].codebook.assign(layers[0].codebook)
    step = tf.function(lambda inputs: layers[1](inputs, training=True).tokens, jit_compile=True)
    np.testing.assert_array_equal(step(vectors), layers[0](vectors, training=True).tokens)
    assert is_one_of(layers[1].codebook, vectors).all()


def test_bfloat16_keeps_codebook_and_search_in_float32():
    layer = VectorQuantizer(8, 3, dtype="mixed_bfloat16")
    layer.build(None)
    quantized = layer(ops.cast(random_vectors(2, 5, 3), "bfloat16"))
    assert quantized.codes.dtype == "bfloat16"
    assert quantized.codebook_loss.dtype == "float32"
    assert layer.lookup(quantized.tokens).dtype == "float32"


def test_it_is_made_again_from_its_config():
    layer = quantizer(usage_decay=0.5, restart_below=0.2)
    again = VectorQuantizer.from_config(layer.get_config())
    assert (again.codebook_size, again.codebook_dim, again.usage_decay, again.restart_below) == (8, 3, 0.5, 0.2)
