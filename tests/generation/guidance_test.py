import keras
import numpy as np
import pytest
import tensorflow as tf

from parti_tf.generation.guidance import drop_captions, guide, guided_predict, with_empty_captions
from tests.tiny import tiny_transformer

EMPTY = np.array([1] + [0] * 15, "int32")
TEXT_IDS = np.array([[9, 5, 7, 1] + [0] * 12, [4, 31, 6, 8, 8, 3, 12, 11, 10, 5, 5, 9, 30, 2, 7, 1]], "int32")
TOKENS = np.random.default_rng(0).integers(0, 24, (8, 2)).astype("int32")  # fed one position after the other


@pytest.fixture(scope="module")
def model():
    return tiny_transformer()


def unguided_logits(model, text_ids) -> np.ndarray:
    """Gives the logits `[8, B, K]` of a pass with these captions alone."""
    cache, steps = model.start_cache(tf.constant(text_ids)), []
    for position, last_tokens in enumerate(TOKENS):
        stream, cache = model.step(tf.constant(last_tokens), tf.constant(position), cache)
        steps.append(model.logits(stream))
    return np.stack(steps)


def guided_logits(model, guidance_scale) -> np.ndarray:
    """Gives the logits `[8, B, K]` of one pass over the doubled batch."""
    predict = guided_predict(model.step, model.logits, tf.constant(guidance_scale, tf.float32))
    cache, steps = model.start_cache(with_empty_captions(tf.constant(TEXT_IDS), tf.constant(EMPTY))), []
    for position, last_tokens in enumerate(TOKENS):
        logits, cache = predict(tf.constant(last_tokens), tf.constant(position), cache)
        steps.append(logits)
    return np.stack(steps)


@pytest.fixture(scope="module")
def two_passes(model):
    return unguided_logits(model, TEXT_IDS), unguided_logits(model, np.stack([EMPTY, EMPTY]))


def test_a_doubled_batch_is_two_passes_and_equation_1(model, two_passes):
    conditional, unconditional = two_passes
    assert np.abs(conditional - unconditional).max() > 0.5
    scales = np.array([3.0, 0.5])
    expected = unconditional + scales[:, None] * (conditional - unconditional)
    np.testing.assert_allclose(guided_logits(model, scales), expected, atol=2e-4)


def test_a_scale_of_1_is_the_caption_alone_and_of_0_the_empty_one(model, two_passes):
    logits = guided_logits(model, [1.0, 0.0])
    np.testing.assert_allclose(logits[:, 0], two_passes[0][:, 0], atol=1e-4)
    np.testing.assert_allclose(logits[:, 1], two_passes[1][:, 1], atol=1e-4)


def test_a_row_has_its_own_scale(model):
    one, other = guided_logits(model, [2.0, 2.0]), guided_logits(model, [2.0, 4.0])
    np.testing.assert_array_equal(one[:, 0], other[:, 0])
    assert np.abs(one[:, 1] - other[:, 1]).max() > 1e-2


def test_equation_1_by_hand():
    assert guide(np.array([3.0, 1.0]), np.array([1.0, 2.0]), 2.0).tolist() == [5.0, 0.0]


def test_empty_captions_follow_the_captions():
    doubled = with_empty_captions(tf.constant(TEXT_IDS), tf.constant(EMPTY))
    np.testing.assert_array_equal(doubled, np.stack([*TEXT_IDS, EMPTY, EMPTY]))


def test_captions_are_dropped_whole_and_at_the_rate():
    text_ids = np.tile(np.arange(2, 18, dtype="int32"), [4000, 1])
    dropped = np.asarray(drop_captions(text_ids, EMPTY, 0.3, keras.random.SeedGenerator(0)))
    is_empty = (dropped == EMPTY).all(1)
    assert (is_empty | (dropped == text_ids).all(1)).all()
    # 4000 * 0.3 = 1200, with a standard deviation of sqrt(4000 * 0.3 * 0.7) = 29.
    assert abs(is_empty.sum() - 1200) < 5 * 29


def test_no_caption_is_dropped_at_rate_0_and_others_at_each_draw():
    seed, text_ids = keras.random.SeedGenerator(0), np.tile(TEXT_IDS, [50, 1])
    np.testing.assert_array_equal(drop_captions(text_ids, EMPTY, 0.0, seed), text_ids)
    first, second = (np.asarray(drop_captions(text_ids, EMPTY, 0.5, seed)) for _ in range(2))
    assert (first != second).any()
    again = drop_captions(text_ids, EMPTY, 0.5, keras.random.SeedGenerator(1))
    np.testing.assert_array_equal(again, drop_captions(text_ids, EMPTY, 0.5, keras.random.SeedGenerator(1)))
