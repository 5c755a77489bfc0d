import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from parti_tf.config import PARTI_3B, PARTI_20B, PARTI_350M, PARTI_750M
from parti_tf.generation.decoding import write_slot_in_place
from parti_tf.layers.attention import write_slot
from parti_tf.models.encoder_decoder import EncoderDecoder
from tests import tiny
from tests.tiny import tiny_transformer

RANDOM = np.random.default_rng(0)
TEXT_IDS = np.array([[9, 5, 7, 1] + [0] * 12, [4, 31, 6, 8, 8, 3, 12, 11, 10, 5, 5, 9, 30, 2, 7, 1]], "int32")
IMAGE_TOKENS = RANDOM.integers(0, 24, (2, 16)).astype("int32")
INPUTS = {"text_ids": TEXT_IDS, "image_tokens": IMAGE_TOKENS}
LAYOUTS = {"conv": (), "full": (0, 1), "mixed": (1,)}


@pytest.fixture(scope="module")
def model() -> EncoderDecoder:
    return tiny_transformer()


def logits_of(model, text_ids=TEXT_IDS, image_tokens=IMAGE_TOKENS) -> np.ndarray:
    return np.asarray(model({"text_ids": text_ids, "image_tokens": image_tokens}))


def stepwise_logits(model, write=write_slot, compile_step=lambda step: step) -> np.ndarray:
    """Gives the logits `[2, 16, K]` of feeding IMAGE_TOKENS one position at a time."""

    def step(last_tokens, position, cache):
        stream, cache = model.step(last_tokens, position, cache, write)
        return model.logits(stream), cache

    step, cache = compile_step(step), model.start_cache(tf.constant(TEXT_IDS))
    shifted = np.concatenate([np.full([2, 1], model.start_token, "int32"), IMAGE_TOKENS], axis=1)
    steps = []
    for position in range(16):
        logits, cache = step(tf.constant(shifted[:, position]), tf.constant(position), cache)
        steps.append(np.asarray(logits))
    return np.stack(steps, axis=1)


# Table 1 by its matrices: an encoder block has 4 D D in attention and 2 D F in the MLP, a decoder block 4 D D more.
#   350M   12 (4 + 8) 1024^2 + 12 (8 + 8) 1024^2      3B    12 12 2048^2 + 36 16 2048^2
#   750M   12 (4 + 8) 1024^2 + 36 (8 + 8) 1024^2      20B   16 12 4096^2 + 64 16 4096^2
@pytest.mark.parametrize(
    ("config", "matrices", "published"),
    [
        (PARTI_350M, 352_321_536, 350e6),
        (PARTI_750M, 754_974_720, 750e6),
        (PARTI_3B, 3_019_898_880, 3e9),
        (PARTI_20B, 20_401_094_656, 20e9),
    ],
    ids=["350M", "750M", "3B", "20B"],
)
def test_published_sizes(config, matrices, published):
    with keras.StatelessScope(initialize_variables=False):  # sizes without the memory
        model = EncoderDecoder(config)
        model.build()
    weights = [weight for block in model.encoder_blocks + model.decoder_blocks for weight in block.weights]
    assert sum(int(np.prod(weight.shape)) for weight in weights if len(weight.shape) == 2) == matrices
    total = sum(int(np.prod(weight.shape)) for weight in weights)
    assert total == pytest.approx(matrices, rel=0.01)
    assert total == pytest.approx(published, rel=0.025)


@pytest.mark.parametrize("qk_norm", [False, True], ids=["plain", "qk_norm"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_position_at_a_time_is_the_whole_picture_at_once(layout, qk_norm):
    model = tiny_transformer(full_attention_layers=LAYOUTS[layout], qk_norm=qk_norm)
    expected = logits_of(model)
    assert np.abs(expected).max() > 1
    for write in (write_slot, write_slot_in_place):
        stepwise = stepwise_logits(model, write)
        for position in range(16):
            np.testing.assert_allclose(
                stepwise[:, position], expected[:, position], atol=2e-4, err_msg=f"{write.__name__} at {position}"
            )


@pytest.mark.parametrize(("jit_compile", "write"), [(True, write_slot), (False, write_slot_in_place)])
def test_compiled_steps_are_the_whole_picture_too(jit_compile, write):
    model = tiny_transformer(num_decoder_layers=1, qk_norm=True)
    stepwise = stepwise_logits(model, write, lambda step: tf.function(step, jit_compile=jit_compile))
    np.testing.assert_allclose(stepwise, logits_of(model), atol=2e-4)


def test_ring_buffers_are_no_longer_than_the_window():
    cache = tiny_transformer(full_attention_layers=(1,)).start_cache(TEXT_IDS)
    conv, full = cache.self_attention
    # 2 rows x 2 heads; 4 + 1 + 1 slots behind a window of 3 on a grid of 4; all 16 of a full layer.
    assert conv.keys.shape == conv.values.shape == (4, 6, 8)
    assert full.keys.shape == full.values.shape == (4, 16, 8)
    assert [layer.keys.shape for layer in cache.cross_attention] == [(4, 16, 8)] * 2


def test_a_later_token_cannot_change_the_past(model):
    full = tiny_transformer(full_attention_layers=(0, 1))
    for changed in range(16):
        tokens = IMAGE_TOKENS.copy()
        tokens[:, changed] = (tokens[:, changed] + 1) % 24
        for one in (model, full):
            difference = np.abs(logits_of(one, image_tokens=tokens) - logits_of(one)).max((0, 2))
            assert not difference[: changed + 1].any()  # the token itself is predicted before it is seen
            assert changed == 15 or difference[changed + 1] > 1e-4


def test_one_conv_layer_sees_its_window_and_no_further():
    one_layer = tiny_transformer(num_decoder_layers=1)
    one_full = tiny_transformer(num_decoder_layers=1, full_attention_layers=(0,))
    tokens = IMAGE_TOKENS.copy()
    tokens[:, 4] = (tokens[:, 4] + 1) % 24  # the input of position 5
    difference = np.abs(logits_of(one_layer, image_tokens=tokens) - logits_of(one_layer)).max((0, 2))
    # Position 5 is seen from the offsets 0, 1, 3, 4 and 5 behind it.
    assert np.flatnonzero(difference > 1e-5).tolist() == [5, 6, 8, 9, 10]
    assert not difference[[7, *range(11, 16)]].any()
    difference = np.abs(logits_of(one_full, image_tokens=tokens) - logits_of(one_full)).max((0, 2))
    assert np.flatnonzero(difference > 1e-5).tolist() == list(range(5, 16))


def test_the_window_decides_what_is_seen():
    assert np.abs(logits_of(tiny_transformer(conv_window=1)) - logits_of(tiny_transformer())).max() > 1e-2
    wide, full = tiny_transformer(conv_window=7), tiny_transformer(full_attention_layers=(0, 1))
    np.testing.assert_allclose(logits_of(wide), logits_of(full), atol=1e-5)


def test_positions_are_of_the_cell_that_is_drawn(model):
    # Whatever stands before it, a picture of one token repeated differs from cell to cell by positions alone.
    repeated = np.full([1, 16], 3, "int32")
    expected = model.image_position.table()
    stream = model.image_position(model.image_embedding(repeated)) - model.image_embedding(repeated)
    np.testing.assert_allclose(stream[0], expected, atol=1e-6)
    moved = tiny_transformer()
    moved.image_position.row.assign(moved.image_position.row + np.eye(4, 16) * 2)  # of the first row: cells 0 to 3
    difference = np.abs(logits_of(moved) - logits_of(model)).max((0, 2))
    assert difference[0] > 1e-3


def test_the_caption_counts_and_its_padding_does_not(model):
    other = TEXT_IDS.copy()
    other[0, 1] = 6
    difference = np.abs(logits_of(model, other) - logits_of(model)).max((1, 2))
    assert difference[0] > 1e-3
    assert difference[1] == 0  # rows are apart

    changed, vector = tiny_transformer(), np.random.default_rng(1).normal(size=16)
    embedding, position = changed.text_embedding.embeddings, changed.text_position.position
    embedding.assign(embedding + vector * np.eye(32, 1))  # the vector of padding
    position.assign(position + vector * (np.arange(16) >= 4)[:, None])
    difference = np.abs(logits_of(changed) - logits_of(model)).max((1, 2))
    assert difference[0] == 0  # the first caption ends after 4 tokens
    assert difference[1] > 1e-3


def test_order_of_the_caption_counts(model):
    swapped = TEXT_IDS.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    assert (np.abs(logits_of(model, swapped) - logits_of(model)).max((1, 2)) > 1e-3).all()


def test_the_encoder_reads_in_both_directions(model):
    changed = TEXT_IDS.copy()
    changed[1, -2] = 8
    difference = np.abs(np.asarray(model.encode(changed) - model.encode(TEXT_IDS)))[1].max(-1)
    assert (difference > 1e-5).all()


def test_qk_norm_changes_the_logits():
    assert np.abs(logits_of(tiny_transformer(qk_norm=True)) - logits_of(tiny_transformer())).max() > 1e-2


def test_dropout_is_for_training():
    model = tiny_transformer(dropout_rate=0.5)
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_transformer(dropout_rate=0.0)))
    assert np.abs(np.asarray(model(INPUTS, training=True)) - logits_of(model)).max() > 1e-2
    still = tiny_transformer(dropout_rate=0.0)
    np.testing.assert_array_equal(still(INPUTS, training=True), logits_of(still))


def test_dropout_acts_on_both_embeddings():
    # With every block silenced, a stream is its embedding.
    model = tiny_transformer(dropout_rate=0.5)
    for block in model.encoder_blocks + model.decoder_blocks:
        for weight in block.weights:
            weight.assign(np.zeros(weight.shape))
    assert np.abs(np.asarray(model.encode(TEXT_IDS, training=True) - model.encode(TEXT_IDS))).max() > 1e-2
    assert np.abs(np.asarray(model(INPUTS, training=True)) - logits_of(model)).max() > 1e-2


def test_every_weight_has_a_gradient(model):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(INPUTS) * RANDOM.normal(size=(2, 16, 24)).astype("float32"))
    weights = model.trainable_variables
    gradients = tape.gradient(loss, weights)
    flat = [w.path for w, g in zip(weights, gradients, strict=True) if g is None or not np.any(tf.convert_to_tensor(g))]
    assert not flat


def test_mixed_bfloat16_gives_float32_logits_from_float32_weights(model):
    low = EncoderDecoder(tiny.ENCODER_DECODER, dtype="mixed_bfloat16")
    low.build()
    low.set_weights(model.get_weights())
    assert {weight.dtype for weight in low.weights} == {"float32"}
    logits = low(INPUTS)
    assert logits.dtype == "float32"
    assert np.abs(np.asarray(logits) - logits_of(model)).mean() < 0.1 * np.abs(logits_of(model)).mean()
    cache = low.start_cache(tf.constant(TEXT_IDS))
    stream, cache = low.step(tf.constant([24, 24]), tf.constant(0), cache)
    assert stream.dtype == cache.self_attention[0].keys.dtype == "bfloat16"
    np.testing.assert_allclose(low.logits(stream), logits[:, 0], atol=0.2)
    # The product with the codes is in float32: logits are not rounded to bfloat16.
    assert np.any(np.asarray(logits) != np.asarray(ops.cast(ops.cast(logits, "bfloat16"), "float32")))


def test_it_is_made_again_from_its_config(model):
    mixed = tiny_transformer(full_attention_layers=(1,))
    again = EncoderDecoder.from_config(json.loads(json.dumps(mixed.get_config())))
    again.build()
    assert again.config == mixed.config == dataclasses.replace(model.config, full_attention_layers=(1,))
    again.set_weights(mixed.get_weights())
    np.testing.assert_array_equal(logits_of(again), logits_of(mixed))


def test_keras_saves_and_loads_it(model, tmp_path):
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(keras.saving.load_model(tmp_path / "model.keras")), logits_of(model))
