"""From logits to a token: temperature, top-k, top-p and the draw; pure functions (Parti 2.4).

A draw is decided by one number in (0, 1) for each row and position, by inversion of the cumulative
distribution. The numbers come from full-range 32-bit Philox draws, which XLA and TensorFlow's own kernels give
alike, and from the row's seed alone. So a row's tokens do not depend on its batch mates.
"""

import tensorflow as tf

FILTERED = -1e9  # the logit of a code that top-k or top-p excludes
_LARGEST_BELOW_ONE = 1 - 2.0**-53


def uniform_draws(seeds: tf.Tensor, num_tokens: int) -> tf.Tensor:
    """Gives the numbers that decide every draw of every row.

    Args:
      seeds: int32 `[B, 2]`.
      num_tokens: positions.

    Returns:
      float32 `[num_tokens, B]` in (0, 1). Row b is a function of `seeds[b]` alone.
    """

    def draw(seed):
        bits = tf.random.stateless_uniform([num_tokens], seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
        # 23 bits and a half are the 24 that float32 holds: exact in every compilation, and never 1.
        return (tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.float32) + 0.5) / 2.0**23

    return tf.transpose(tf.map_fn(draw, seeds, fn_output_signature=tf.TensorSpec([num_tokens], tf.float32)))


def draw_tokens(logits: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Draws a token of each row in proportion to exp(logits).

    The cumulative sum is taken over blocks first and inside one block then, which costs a fraction of one
    over the whole codebook; in float64, so that two compilations of a model disagree only where the number
    falls within rounding of a boundary between codes.

    Args:
      logits: float32 `[B, K]`.
      uniform: float32 `[B]` in (0, 1).

    Returns:
      int32 `[B]`. Never a code whose weight underflows to 0.
    """
    size = logits.shape[-1]
    block = 1 << (size.bit_length() // 2)  # about the square root of the codebook
    weights = tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))
    weights = tf.pad(tf.cast(weights, tf.float64), [[0, 0], [0, -size % block]])
    weights = tf.reshape(weights, [-1, weights.shape[-1] // block, block])
    chosen, remaining = _invert(tf.reduce_sum(weights, axis=-1), tf.cast(uniform[:, None], tf.float64), scale=True)
    inside, _ = _invert(tf.gather(weights, chosen, batch_dims=1), remaining)
    return chosen * block + inside


def _invert(mass: tf.Tensor, target: tf.Tensor, scale: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds where the cumulative sum of `mass` `[B, n]` passes `target` `[B, 1]`.

    Args:
      mass: at least 0.
      target: what to reach; a share of the total if `scale`.

    Returns:
      int32 `[B]`, an entry of positive mass; and `[B, 1]`, what is left of the target within it.
    """
    reached = tf.cumsum(mass, axis=-1)
    total = reached[:, -1:]
    target = tf.minimum(target * total if scale else target, total * _LARGEST_BELOW_ONE)
    passed = tf.cast(reached <= target, mass.dtype)
    index = tf.cast(tf.reduce_sum(passed, axis=-1), tf.int32)
    before = tf.reduce_max(passed * reached, axis=-1, keepdims=True)
    return index, target - before


def filter_logits(logits: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Excludes the codes outside the k most likely and outside the smallest set of probability p.

    Both thresholds are found exactly by bisection on the bits of the logits, without a sort: 32 comparisons of
    the whole row. Codes tied with the last one kept are kept.

    Args:
      logits: float32 `[B, K]`.
      top_k: int32 `[B]`; 0 keeps every code.
      top_p: float32 `[B]` in (0, 1]; 1 keeps every code. Applied to what top-k leaves.

    Returns:
      float32 `[B, K]`, FILTERED where excluded.
    """
    size = logits.shape[-1]
    wanted = tf.where(top_k > 0, tf.minimum(top_k, size), size)
    keys = _ordered_bits(logits)
    threshold = _largest_threshold(keys, tf.ones_like(logits), tf.cast(wanted, tf.float32))
    kept = keys >= threshold
    weights = tf.where(kept, tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True)), 0.0)
    threshold = _largest_threshold(keys, weights, top_p * tf.reduce_sum(weights, axis=-1))
    kept &= (keys >= threshold) | (top_p >= 1.0)[:, None]
    return tf.where(kept, logits, FILTERED)


def _ordered_bits(values: tf.Tensor) -> tf.Tensor:
    """Gives uint32 that order as the float32 values do."""
    bits = tf.bitcast(values, tf.uint32)
    sign = tf.constant(1 << 31, tf.uint32)
    return tf.where(bits >= sign, tf.bitwise.invert(bits), tf.bitwise.bitwise_or(bits, sign))


def _largest_threshold(keys: tf.Tensor, weights: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
    """Gives the largest key at and above which the weights `[B, K]` still sum to `wanted` `[B]`. uint32 `[B, 1]`."""

    def body(bit, threshold):
        candidate = tf.bitwise.bitwise_or(threshold, tf.bitwise.left_shift(tf.constant(1, tf.uint32), bit))
        mass = tf.reduce_sum(tf.where(keys >= candidate, weights, 0.0), axis=-1, keepdims=True)
        enough = mass >= wanted[:, None]
        return bit - 1, tf.where(enough, candidate, threshold)

    start = tf.zeros_like(keys[:, :1])
    last = tf.constant(31, tf.uint32)
    # `bit` wraps below 0, so the loop is counted by maximum_iterations alone.
    return tf.while_loop(lambda *_: True, body, (last, start), maximum_iterations=32)[1]
