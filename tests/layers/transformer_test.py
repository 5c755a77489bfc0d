import keras
import numpy as np
import pytest
from keras import ops

from parti_tf.layers.attention_masks import causal_mask, full_causal_offsets
from parti_tf.layers.transformer import TransformerBlock, layer_norm
from tests.tiny import randomise

RANDOM = np.random.default_rng(0)
STREAM = RANDOM.normal(size=(2, 6, 8)).astype("float32")
SOURCES = RANDOM.normal(size=(2, 3, 8)).astype("float32")
MASK = causal_mask(full_causal_offsets(6), 6)


def block(**options) -> TransformerBlock:
    layer = TransformerBlock(8, 16, 2, 4, **options)
    layer.build()
    return randomise(layer)


def normed(layer: keras.layers.LayerNormalization, inputs: np.ndarray) -> np.ndarray:
    centred = inputs - inputs.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * np.asarray(layer.gamma) + np.asarray(layer.beta)


def mlp(layer: TransformerBlock, inputs: np.ndarray) -> np.ndarray:
    hidden = np.maximum(inputs @ np.asarray(layer.mlp_in.kernel).T + np.asarray(layer.mlp_in.bias), 0)  # relu
    return hidden @ np.asarray(layer.mlp_out.kernel).T + np.asarray(layer.mlp_out.bias)


def test_each_part_is_added_to_the_stream_and_reads_it_normalised():
    layer = block()
    inputs = normed(layer.self_attention_norm, STREAM)
    stream = STREAM + np.asarray(layer.self_attention(inputs, inputs, MASK))
    expected = stream + mlp(layer, normed(layer.mlp_norm, stream))
    np.testing.assert_allclose(layer(STREAM, MASK), expected, atol=1e-5)


def test_cross_attention_comes_between_and_its_sources_are_not_normalised():
    layer, sources_mask = block(cross_attention=True), np.array([True, False, True])
    inputs = normed(layer.self_attention_norm, STREAM)
    stream = STREAM + np.asarray(layer.self_attention(inputs, inputs, MASK))
    targets = normed(layer.cross_attention_norm, stream)
    stream = stream + np.asarray(layer.cross_attention_layer(targets, SOURCES, sources_mask))
    expected = stream + mlp(layer, normed(layer.mlp_norm, stream))
    np.testing.assert_allclose(layer(STREAM, MASK, SOURCES, sources_mask), expected, atol=1e-5)


def test_weights_are_those_of_a_plain_mlp_and_four_matrices_of_attention():
    def matrices(layer):
        return sum(int(np.prod(weight.shape)) for weight in layer.weights if len(weight.shape) == 2)

    assert matrices(block()) == 4 * 8 * 8 + 2 * 8 * 16
    assert matrices(block(cross_attention=True)) == 8 * 8 * 8 + 2 * 8 * 16


@pytest.mark.parametrize("options", [{"activation": "gelu"}, {"qk_norm": True}])
def test_each_option_changes_the_output(options):
    weights = {weight.path.split("/", 1)[1]: weight for weight in block().weights}
    layer = block(**options)
    for weight in layer.weights:
        if weight.path.split("/", 1)[1] in weights:
            weight.assign(weights[weight.path.split("/", 1)[1]])
    assert np.abs(np.asarray(layer(STREAM, MASK) - block()(STREAM, MASK))).max() > 1e-3


def test_dropout_acts_in_training_only_and_on_every_branch():
    plain, dropping = block(cross_attention=True), block(cross_attention=True, dropout_rate=0.5)
    inputs = (STREAM, MASK, SOURCES)
    np.testing.assert_array_equal(dropping(*inputs), plain(*inputs))
    np.testing.assert_array_equal(plain(*inputs, training=True), plain(*inputs))
    # With every branch but one silenced, that one alone still varies: dropout acts on each.
    for name in ("self_attention", "cross_attention_layer", "mlp_out"):
        layer = block(cross_attention=True, dropout_rate=0.5)
        for other in {"self_attention", "cross_attention_layer", "mlp_out"} - {name}:
            part = getattr(layer, other)
            for weight in part.weights:
                weight.assign(ops.zeros_like(weight))
        trained = np.asarray(layer(*inputs, training=True))
        assert np.abs(trained - np.asarray(layer(*inputs))).max() > 1e-3, name
        assert (trained == STREAM).any(), name  # a dropped branch leaves the stream as it was


def test_layer_norm_computes_in_float32_under_bfloat16():
    # 256 + [0, 1] needs more than bfloat16's 8 bits to keep its variance.
    inputs = np.array([[256.0, 258.0, 256.0, 258.0, 260.0, 258.0, 256.0, 256.0]], "float32")
    layer = layer_norm("norm", "mixed_bfloat16")
    layer.build((None, 8))
    np.testing.assert_allclose(ops.cast(layer(inputs), "float32"), normed(layer, inputs), atol=0.01)


def test_it_is_made_again_from_its_config():
    layer = block(cross_attention=True, activation="gelu", qk_norm=True, dropout_rate=0.25)
    again = TransformerBlock.from_config(layer.get_config())
    again.build()
    again.set_weights(layer.get_weights())
    assert (again.activation, again.qk_norm, again.dropout_rate) == ("gelu", True, 0.25)
    np.testing.assert_array_equal(again(STREAM, MASK, SOURCES), layer(STREAM, MASK, SOURCES))
