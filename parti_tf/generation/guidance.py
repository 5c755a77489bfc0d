"""Classifier-free guidance: both halves of one idea (Parti 2.4, Eq. 1).

In training a share of captions is replaced by the empty one, so that the model also learns G(z), the image prior
without a caption. In sampling the two predictions are extrapolated: G(z) + lambda * (G(z, c) - G(z)).
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops


def drop_captions(text_ids, empty_caption_ids, rate: float, seed: keras.random.SeedGenerator):
    """Replaces each caption by the empty one with probability `rate` (Parti 2.4).

    Args:
      text_ids: int32 `[B, S]`.
      empty_caption_ids: int32 `[S]`, what the text tokenizer gives for an empty caption.
      rate: in [0, 1).
      seed: advanced by the draw.

    Returns:
      int32 `[B, S]`.
    """
    dropped = keras.random.uniform((ops.shape(text_ids)[0], 1), seed=seed) < rate
    return ops.where(dropped, ops.cast(empty_caption_ids, text_ids.dtype)[None, :], text_ids)


def guide(conditional, unconditional, guidance_scale):
    """Gives G(z) + lambda * (G(z, c) - G(z)) (Parti Eq. 1).

    Args:
      conditional: `[B, D]`, the prediction with the caption.
      unconditional: `[B, D]`, the prediction with the empty caption.
      guidance_scale: lambda, broadcasts against the predictions. 1 gives the conditional one back.

    Returns:
      `[B, D]`.
    """
    return unconditional + guidance_scale * (conditional - unconditional)


def with_empty_captions(text_ids: tf.Tensor, empty_caption_ids: tf.Tensor) -> tf.Tensor:
    """Doubles a batch: the captions `[B, S]`, then as many empty ones. int32 `[2 * B, S]`."""
    empty = tf.ones_like(text_ids) * tf.cast(empty_caption_ids, text_ids.dtype)
    return tf.concat([text_ids, empty], axis=0)


def guided_predict(
    step: Callable[..., tuple[Any, Any]], to_logits: Callable[[Any], Any], guidance_scale: tf.Tensor
) -> Callable[..., tuple[Any, Any]]:
    """Gives the `predict` of a guided decoding, whose cache was started on `with_empty_captions`.

    Logits are a linear map of the decoder's last stream, and Eq. 1 is an affine combination. So the streams are
    combined first, and the widest product of a step runs on half the rows.

    Args:
      step: `(last_tokens [2 * B], position, cache) -> (stream [2 * B, D], cache)`.
      to_logits: `stream [B, D] -> logits [B, K]`, linear.
      guidance_scale: float32 `[B]`.

    Returns:
      `(last_tokens [B], position, cache) -> (logits [B, K], cache)`.
    """

    def predict(last_tokens, position, cache):
        stream, cache = step(tf.concat([last_tokens, last_tokens], axis=0), position, cache)
        conditional, unconditional = tf.split(stream, 2, axis=0)
        scale = tf.cast(guidance_scale[:, None], stream.dtype)
        return to_logits(guide(conditional, unconditional, scale)), cache

    return predict
