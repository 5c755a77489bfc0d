"""The cached decoding loop: tokens one after the other, each fed back (Parti 2.2, 3).

The loop knows no model. It calls `predict(last_tokens, position, cache) -> (logits, cache)` and is the same for
every autoregressive model here, so its tests need none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from parti_tf.generation import sampling

Predict = Callable[[tf.Tensor, tf.Tensor, Any], tuple[tf.Tensor, Any]]


class DrawRows(NamedTuple):
    """How each row is drawn; see `config.SamplingConfig`.

    Attributes:
      temperature: float32 `[B]`.
      top_k: int32 `[B]`.
      top_p: float32 `[B]`.
    """

    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor


class DecodeState(NamedTuple):
    """A decoding under way.

    Attributes:
      position: int32 scalar, the next position to draw.
      last_tokens: int32 `[B]`, the tokens before it.
      tokens: int32 `[num_tokens, B]`, drawn so far; 0 from `position` on.
      cache: the model's.
    """

    position: tf.Tensor
    last_tokens: tf.Tensor
    tokens: tf.Tensor
    cache: Any


def start_state(cache: Any, batch_size: tf.Tensor | int, start_token: int, num_tokens: int) -> DecodeState:
    """Gives the state before the first token."""
    return DecodeState(
        tf.constant(0),
        tf.fill([batch_size], start_token),
        tf.zeros([num_tokens, batch_size], tf.int32),
        cache,
    )


def decode(predict: Predict, state: DecodeState, uniform: tf.Tensor, rows: DrawRows, num_steps: int) -> DecodeState:
    """Draws `num_steps` more tokens of every row in one `tf.while_loop`.

    Args:
      predict: gives float32 logits `[B, K]` of the token at a position, given the one before.
      state: where to go on.
      uniform: float32 `[num_tokens, B]`; see `sampling.uniform_draws`.
      rows: how to draw.
      num_steps: how many positions.

    Returns:
      The state after them.
    """
    filtered = tf.reduce_any((rows.top_k > 0) | (rows.top_p < 1.0))

    def body(position, last_tokens, tokens, cache):
        logits, cache = predict(last_tokens, position, cache)
        logits = logits / rows.temperature[:, None]
        logits = tf.cond(filtered, lambda: sampling.filter_logits(logits, rows.top_k, rows.top_p), lambda: logits)
        drawn = sampling.draw_tokens(logits, uniform[position])
        return position + 1, drawn, write_row(tokens, drawn, position), cache

    return DecodeState(
        *tf.while_loop(lambda *_: True, body, tuple(state), maximum_iterations=num_steps, parallel_iterations=1)
    )


def write_row(tokens: tf.Tensor, drawn: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """Gives `tokens` `[num_tokens, B]` with `drawn` `[B]` at a position."""
    return tf.tensor_scatter_nd_update(tokens, [[position]], drawn[None, :])


def write_slot_in_place(buffer: tf.Tensor, update: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
    """Puts `update` `[rows, 1, H]` into a slot of `buffer` `[rows, slots, H]`, without copying the buffer.

    The op reuses its input where nobody else holds it, as in a loop, so its cost does not grow with the buffer;
    without XLA, `keras.ops.slice_update` copies.
    """
    zero, one = tf.zeros_like(slot), tf.ones_like(slot)
    return tf.raw_ops.TensorStridedSliceUpdate(
        input=buffer,
        begin=tf.stack([zero, slot, zero]),
        end=tf.stack([zero, slot + 1, zero]),
        strides=tf.stack([one, one, one]),
        value=update,
        begin_mask=0b101,
        end_mask=0b101,
    )
