import keras
import numpy as np
import pytest
from keras import ops

from parti_tf.layers.attention import MASKED, MultiHeadAttention, write_slot
from parti_tf.layers.attention_masks import causal_mask, conv_causal_offsets, full_causal_offsets, ring_bias
from tests.tiny import randomise

RANDOM = np.random.default_rng(0)
TARGETS = RANDOM.normal(size=(2, 5, 12)).astype("float32")
SOURCES = RANDOM.normal(size=(2, 7, 12)).astype("float32")
MASK = RANDOM.random((2, 1, 5, 7)) < 0.6


def attention(**options) -> MultiHeadAttention:
    """Three heads of 5: together wider than the stream's 12."""
    layer = MultiHeadAttention(model_dim=12, num_heads=3, head_dim=5, **options)
    layer.build()
    return randomise(layer)


def numpy_attention(layer, targets, sources, mask=None):
    """The formula, written out."""
    query, key, value, output = (
        np.asarray(part.kernel) for part in (layer.query, layer.key, layer.value, layer.output_projection)
    )

    def heads(vectors, kernel):
        return (vectors @ kernel.T).reshape(*vectors.shape[:2], 3, 5).transpose(0, 2, 1, 3)

    queries, keys, values = heads(targets, query), heads(sources, key), heads(sources, value)
    if layer.qk_norm:
        queries, keys = (part / np.sqrt((part**2).mean(-1, keepdims=True) + 1e-6) for part in (queries, keys))
        queries, keys = queries * np.asarray(layer.query_gain), keys * np.asarray(layer.key_gain)
    scores = queries @ keys.transpose(0, 1, 3, 2) / np.sqrt(5)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ values
    return mixed.transpose(0, 2, 1, 3).reshape(*targets.shape[:2], 15) @ output.T


@pytest.mark.parametrize("mask", [None, MASK | (np.arange(7) == 0)], ids=["unmasked", "masked"])
def test_it_is_the_attention_of_keras(mask):
    layer = attention()
    theirs = keras.layers.MultiHeadAttention(3, 5, use_bias=False)
    theirs.build(TARGETS.shape, SOURCES.shape)
    kernels = [np.asarray(part.kernel).T for part in (layer.query, layer.key, layer.value)]
    output = np.asarray(layer.output_projection.kernel).T
    theirs.set_weights([*(kernel.reshape(12, 3, 5) for kernel in kernels), output.reshape(3, 5, 12)])
    expected = theirs(TARGETS, SOURCES, attention_mask=None if mask is None else mask[:, 0])
    np.testing.assert_allclose(layer(TARGETS, SOURCES, mask), expected, atol=1e-5)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_it_is_the_formula(qk_norm):
    layer, mask = attention(qk_norm=qk_norm), MASK | (np.arange(7) == 0)
    expected = numpy_attention(layer, TARGETS, SOURCES, mask)
    np.testing.assert_allclose(layer(TARGETS, SOURCES, mask), expected, atol=1e-5)


def test_qk_norm_is_of_use_whatever_the_length_of_queries_and_keys():
    layer = attention(qk_norm=True)
    before = np.asarray(layer(TARGETS, SOURCES))
    for part in (layer.query, layer.key):
        part.kernel.assign(100.0 * part.kernel)
    np.testing.assert_allclose(layer(TARGETS, SOURCES), before, atol=1e-3)
    layer.key_gain.assign(2.0 * layer.key_gain)
    assert np.abs(np.asarray(layer(TARGETS, SOURCES)) - before).max() > 1e-2


def test_a_masked_source_changes_nothing():
    layer = attention()
    changed = SOURCES.copy()
    changed[:, 3] += 100.0
    mask = np.arange(7) != 3
    np.testing.assert_array_equal(layer(TARGETS, SOURCES, mask), layer(TARGETS, changed, mask))
    assert np.abs(np.asarray(layer(TARGETS, SOURCES) - layer(TARGETS, changed))).max() > 1e-2


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("offsets", [conv_causal_offsets(4, 3), full_causal_offsets(16)], ids=["conv", "full"])
def test_one_position_at_a_time_is_the_whole_sequence_at_once(offsets, qk_norm):
    layer = attention(qk_norm=qk_norm)
    inputs = RANDOM.normal(size=(2, 16, 12)).astype("float32")
    expected = np.asarray(layer(inputs, inputs, causal_mask(offsets, 16)))
    cache = layer.empty_cache(2, len(offsets))
    assert cache.keys.shape == cache.values.shape == (2 * 3, len(offsets), 5)
    for position in range(16):
        cache = layer.append(cache, inputs[:, position], position % len(offsets))
        attended = layer.attend_step(inputs[:, position], cache, ring_bias(offsets, position, MASKED))
        np.testing.assert_allclose(attended, expected[:, position], atol=1e-5, err_msg=f"position {position}")


@pytest.mark.parametrize("qk_norm", [False, True])
def test_cached_sources_are_the_sources(qk_norm):
    layer, mask = attention(qk_norm=qk_norm), MASK[:, 0, :1] | (np.arange(7) == 0)
    cache = layer.cache_sources(SOURCES)
    bias = np.repeat(np.where(mask, 0.0, MASKED), 3, axis=0)
    expected = layer(TARGETS[:, :1], SOURCES, mask[:, None])[:, 0]
    np.testing.assert_allclose(layer.attend_step(TARGETS[:, 0], cache, bias.astype("float32")), expected, atol=1e-5)


def test_write_slot_changes_one_slot():
    buffer, update = RANDOM.normal(size=(6, 4, 5)), RANDOM.normal(size=(6, 1, 5))
    expected = buffer.copy()
    expected[:, 2:3] = update
    np.testing.assert_array_equal(write_slot(ops.convert_to_tensor(buffer), update, 2), expected)


def test_dropout_drops_attention_in_training_only():
    layer = attention(dropout_rate=0.5)
    plain = np.asarray(attention()(TARGETS, SOURCES))
    np.testing.assert_array_equal(layer(TARGETS, SOURCES), plain)
    assert np.abs(np.asarray(layer(TARGETS, SOURCES, training=True)) - plain).max() > 1e-2


def test_bfloat16_gives_nearly_the_same_from_float32_weights():
    layer = attention(dtype="mixed_bfloat16", qk_norm=True)
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    result = layer(TARGETS, SOURCES)
    assert keras.backend.standardize_dtype(result.dtype) == "bfloat16"
    expected = attention(qk_norm=True)(TARGETS, SOURCES)
    np.testing.assert_allclose(ops.cast(result, "float32"), expected, atol=0.05)


def test_it_is_made_again_from_its_config():
    layer = attention(qk_norm=True, dropout_rate=0.25)
    again = MultiHeadAttention.from_config(layer.get_config())
    again.build()
    again.set_weights(layer.get_weights())
    assert again.dropout_rate == 0.25
    np.testing.assert_array_equal(again(TARGETS, SOURCES), layer(TARGETS, SOURCES))
