"""The loop is tested over small functions in a model's place."""

import numpy as np
import pytest
import tensorflow as tf

from parti_tf.generation.decoding import DrawRows, decode, start_state, write_row, write_slot_in_place
from parti_tf.layers.attention import write_slot

CODES = 12


def rows_of(batch_size: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> DrawRows:
    return DrawRows(tf.fill([batch_size], temperature), tf.fill([batch_size], top_k), tf.fill([batch_size], top_p))


def count_up(last_tokens, position, cache):
    """Predicts the token before plus the position, and keeps what it was asked."""
    seen = tf.tensor_scatter_nd_update(cache, [[position]], last_tokens[None])
    return 100.0 * tf.one_hot((last_tokens + position) % CODES, CODES), seen


def certain_tokens(start: list[int], num_tokens: int) -> list[list[int]]:
    """What `count_up` leads to, one row a list."""
    rows = []
    for last in start:
        row = []
        for position in range(num_tokens):
            last = (last + position) % CODES
            row.append(last)
        rows.append(row)
    return rows


def test_each_token_is_fed_back_with_its_position():
    state = start_state(tf.fill([6, 2], -1), 2, 5, 6)
    state = decode(count_up, state, tf.fill([6, 2], 0.5), rows_of(2), 6)
    expected = certain_tokens([5, 5], 6)
    assert tf.transpose(state.tokens).numpy().tolist() == expected
    assert int(state.position) == 6
    assert state.last_tokens.numpy().tolist() == [row[-1] for row in expected]
    # The cache comes through every step: it holds what was fed in.
    assert state.cache[:, 0].numpy().tolist() == [5, *expected[0][:-1]]


def test_start_state_is_empty():
    state = start_state("cache", 3, 24, 5)
    assert int(state.position) == 0
    assert state.last_tokens.numpy().tolist() == [24, 24, 24]
    assert state.tokens.shape == (5, 3)
    assert not state.tokens.numpy().any()
    assert state.cache == "cache"


def random_walk(last_tokens, position, cache):
    """Predicts something of every token, otherwise for each position and token before."""
    codes = tf.range(CODES, dtype=tf.float32)
    return 2.0 * tf.sin(tf.cast(last_tokens + position, tf.float32)[:, None] * (codes + 1.0)), cache


UNIFORM = tf.constant(np.random.default_rng(0).random((20, 3)), tf.float32)


@tf.function
def walk_on(state, uniform, rows, num_steps: int):
    return decode(random_walk, state, uniform, rows, num_steps)


def walk(num_steps: list[int], rows: DrawRows | None = None, uniform: tf.Tensor = UNIFORM) -> np.ndarray:
    state = start_state(tf.zeros([]), 3, 1, 20)
    for steps in num_steps:
        state = walk_on(state, uniform, rows or rows_of(3), steps)
    return state.tokens.numpy()


@pytest.mark.parametrize("parts", [[1] * 20, [7, 13], [19, 1]])
def test_some_at_a_time_is_all_at_once(parts):
    np.testing.assert_array_equal(walk(parts), walk([20]))


def test_what_is_not_drawn_is_0():
    tokens = walk([7])
    np.testing.assert_array_equal(tokens[:7], walk([20])[:7])
    assert not tokens[7:].any()


def test_a_number_decides_its_own_row_and_position():
    changed = UNIFORM.numpy()
    changed[5, 1] = 1 - changed[5, 1]
    difference = walk([20], uniform=tf.constant(changed)) != walk([20])
    assert not difference[:, [0, 2]].any()
    assert not difference[:5].any()
    assert difference[5:, 1].any()


@pytest.mark.parametrize("options", [{"temperature": 0.2}, {"top_k": 2}, {"top_p": 0.4}])
def test_each_way_of_drawing_changes_tokens_and_narrows_them(options):
    narrow, wide = walk([20], rows_of(3, **options)), walk([20])
    assert (narrow != wide).any()

    def mean_logit(tokens):
        last = np.concatenate([np.ones([1, 3], "int32"), tokens[:-1]])
        logits = np.stack([random_walk(tf.constant(last[p]), p, None)[0] for p in range(20)])
        return np.take_along_axis(logits, tokens[..., None], -1).mean()

    assert mean_logit(narrow) > mean_logit(wide) + 0.1


def test_top_k_of_1_is_the_most_likely_token_whatever_the_number():
    rows = rows_of(3, top_k=1)
    np.testing.assert_array_equal(walk([20], rows), walk([20], rows, 1.0 - UNIFORM))
    np.testing.assert_array_equal(walk([20], rows)[:, 0], walk([20], rows)[:, 1])


def test_rows_are_drawn_each_in_its_own_way():
    mixed = DrawRows(tf.constant([1.0, 0.2, 1.0]), tf.constant([0, 0, 1]), tf.constant([1.0, 1.0, 0.9]))
    together = walk([20], mixed)
    np.testing.assert_array_equal(together[:, 0], walk([20])[:, 0])  # untouched by the filters of the others
    np.testing.assert_array_equal(together[:, 1], walk([20], rows_of(3, temperature=0.2))[:, 1])
    np.testing.assert_array_equal(together[:, 2], walk([20], rows_of(3, top_k=1))[:, 2])


def test_temperature_divides_logits_before_top_p():
    # Shares 0.88, 0.12 at temperature 1 and 0.73, 0.27 at 2: top_p 0.8 keeps one code there and two here.
    def two_codes(last_tokens, position, cache):
        return tf.repeat(tf.constant([[2.0, 0.0]]), 3, axis=0), cache

    def drawn(temperature):
        state = start_state(tf.zeros([]), 3, 0, 20)
        rows = rows_of(3, temperature, top_p=0.8)
        return set(decode(two_codes, state, UNIFORM, rows, 20).tokens.numpy().flat)

    assert drawn(1.0) == {0}
    assert drawn(2.0) == {0, 1}


def test_the_loop_runs_eagerly_and_compiled_by_xla():
    def draw(uniform):
        state = start_state(tf.zeros([]), 3, 1, 20)
        return decode(random_walk, state, uniform, rows_of(3, temperature=0.5, top_k=9, top_p=0.95), 20).tokens

    expected = walk([20], rows_of(3, 0.5, 9, 0.95))
    np.testing.assert_array_equal(draw(UNIFORM), expected)
    np.testing.assert_array_equal(tf.function(draw, jit_compile=True)(UNIFORM), expected)


def test_write_row_changes_one_row():
    tokens = write_row(tf.zeros([4, 2], tf.int32), tf.constant([5, 6]), tf.constant(2))
    assert tokens.numpy().tolist() == [[0, 0], [0, 0], [5, 6], [0, 0]]


def test_write_slot_in_place_is_write_slot():
    buffer, update = (np.random.default_rng(0).normal(size=[6, slots, 5]) for slots in (4, 1))
    in_place = tf.function(lambda slot: write_slot_in_place(tf.constant(buffer), tf.constant(update), slot))
    for slot in range(4):
        expected = write_slot(tf.constant(buffer), tf.constant(update), slot)
        np.testing.assert_array_equal(in_place(tf.constant(slot)), expected)


def test_write_slot_in_place_leaves_a_buffer_that_is_still_held():
    buffer = tf.zeros([1, 3, 2])
    written = write_slot_in_place(buffer, tf.ones([1, 1, 2]), tf.constant(1))
    assert not buffer.numpy().any()
    assert written.numpy()[0].tolist() == [[0, 0], [1, 1], [0, 0]]
