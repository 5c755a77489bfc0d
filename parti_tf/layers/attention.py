"""Multi-head attention: over a whole sequence at once, and for one position at a time from a cache.

Einsum alphabet, here and in every layer: B batch, T target, S source, D model_dim, N heads, H head_dim,
F mlp_dim, K code.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from parti_tf.layers.projection import Projection

MASKED = -1e9  # added to the score of a forbidden key: exp() of it is exactly 0 in float32 and bfloat16


class KVCache(NamedTuple):
    """The keys and values of one attention layer, heads folded into the batch so that a step is two plain products.

    Attributes:
      keys: `[B * N, slots, H]`.
      values: the same shape.
    """

    keys: Any
    values: Any


def write_slot(buffer, update, slot):
    """Puts `update` `[B * N, 1, H]` into a slot of `buffer` `[B * N, slots, H]` and gives the new buffer."""
    return ops.slice_update(buffer, (0, slot, 0), update)


@keras.saving.register_keras_serializable("parti_tf")
class MultiHeadAttention(keras.layers.Layer):
    """Scaled dot-product attention over heads (Parti 2.2, Table 1).

    Ours: no biases in the projections; a key bias has no effect and the papers print none.

    Args:
      model_dim: width D of inputs and outputs.
      num_heads: heads N.
      head_dim: width H of a head; N * H need not equal D.
      qk_norm: scale queries and keys of each head to unit root mean square, with a learned gain, before
        their product. Ours, off by default: keeps long trainings stable.
      dropout_rate: share of attention weights dropped in training.

    Call arguments:
      targets: `[B, T, D]`, what asks.
      sources: `[B, S, D]`, what is asked; the targets for self-attention.
      mask: bool, broadcastable to `[B, N, T, S]`, True = may attend; None lets all attend.

    Returns:
      `[B, T, D]`.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        head_dim: int,
        qk_norm: bool = False,
        dropout_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.model_dim = model_dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.qk_norm = qk_norm
        self.dropout_rate = dropout_rate
        inner_dim, policy = num_heads * head_dim, self.dtype_policy
        self.query = Projection(model_dim, inner_dim, use_bias=False, dtype=policy, name="query")
        self.key = Projection(model_dim, inner_dim, use_bias=False, dtype=policy, name="key")
        self.value = Projection(model_dim, inner_dim, use_bias=False, dtype=policy, name="value")
        self.output_projection = Projection(inner_dim, model_dim, use_bias=False, dtype=policy, name="output")
        self.dropout = keras.layers.Dropout(dropout_rate, dtype=policy)

    def build(self, *_):
        for layer in (self.query, self.key, self.value, self.output_projection):
            layer.build()
        if self.qk_norm:
            self.query_gain = self.add_weight(name="query_gain", shape=(self.head_dim,), initializer="ones")
            self.key_gain = self.add_weight(name="key_gain", shape=(self.head_dim,), initializer="ones")
        self.built = True

    def call(self, targets, sources, mask=None, training=False):
        keys, values = self.project_sources(sources)
        return self.attend(self.project_queries(targets), keys, values, mask, training=training)

    def project_queries(self, targets):
        """Gives queries `[B, T, N, H]`, scaled by 1 / sqrt(H), of targets `[B, T, D]`."""
        return self._scale(self._split_heads(self.query(targets)))

    def project_sources(self, sources):
        """Gives keys and values, each `[B, S, N, H]`, of sources `[B, S, D]`."""
        keys = self._split_heads(self.key(sources))
        if self.qk_norm:
            keys = _unit_rms(keys) * ops.cast(self.key_gain, keys.dtype)
        return keys, self._split_heads(self.value(sources))

    def attend(self, queries, keys, values, mask=None, training=False):
        """Gives the attended and projected values `[B, T, D]` for queries `[B, T, N, H]`."""
        scores = ops.cast(ops.einsum("BTNH,BSNH->BNTS", queries, keys), "float32")
        if mask is not None:
            scores = scores + ops.where(mask, 0.0, MASKED)
        weights = self.dropout(ops.cast(ops.softmax(scores, axis=-1), values.dtype), training=training)
        mixed = ops.einsum("BNTS,BSNH->BTNH", weights, values)
        mixed = ops.reshape(mixed, (-1, ops.shape(mixed)[1], self.num_heads * self.head_dim))
        return self.output_projection(mixed)

    def cache_sources(self, sources) -> KVCache:
        """Gives the cache that holds every one of `sources` `[B, S, D]`: S slots."""
        length = ops.shape(sources)[1]

        def fold(heads):
            return ops.reshape(ops.transpose(heads, (0, 2, 1, 3)), (-1, length, self.head_dim))  # [B * N, S, H]

        keys, values = self.project_sources(sources)
        return KVCache(fold(keys), fold(values))

    def empty_cache(self, batch_size, slots: int) -> KVCache:
        """Gives a zeroed ring buffer of `slots` positions for `batch_size` rows."""
        zeros = ops.zeros((batch_size * self.num_heads, slots, self.head_dim), dtype=self.compute_dtype)
        return KVCache(zeros, zeros)

    def append(self, cache: KVCache, target, slot, write: Callable = write_slot) -> KVCache:
        """Gives the cache with the key and value of one position, `target` `[B, D]`, in a slot.

        Args:
          cache: the ring buffer so far.
          target: what stands at the position.
          slot: int32 scalar.
          write: see `write_slot`; a caller that knows a faster way on its runtime passes it here.
        """
        keys = self._fold_step(self.key(target))
        if self.qk_norm:
            keys = _unit_rms(keys) * ops.cast(self.key_gain, keys.dtype)
        values = self._fold_step(self.value(target))
        return KVCache(write(cache.keys, keys, slot), write(cache.values, values, slot))

    def attend_step(self, target, cache: KVCache, bias):
        """Gives what one position attends to, `[B, D]`.

        Args:
          target: `[B, D]`, what asks.
          cache: what is asked.
          bias: float32, broadcastable to `[B * N, 1, slots]`: 0 where a slot may be seen, MASKED elsewhere.
        """
        queries = self._scale(self._fold_step(self.query(target)))
        scores = ops.matmul(queries, ops.transpose(cache.keys, (0, 2, 1)))  # [B * N, 1, slots]
        weights = ops.softmax(ops.cast(scores, "float32") + bias, axis=-1)
        mixed = ops.matmul(ops.cast(weights, cache.values.dtype), cache.values)  # [B * N, 1, H]
        return self.output_projection(ops.reshape(mixed, (-1, self.num_heads * self.head_dim)))

    def _fold_step(self, projected):
        return ops.reshape(projected, (-1, 1, self.head_dim))  # [B, N * H] to [B * N, 1, H]

    def _scale(self, queries):
        if self.qk_norm:
            queries = _unit_rms(queries) * ops.cast(self.query_gain, queries.dtype)
        return queries * ops.cast(self.head_dim**-0.5, queries.dtype)

    def _split_heads(self, projected):
        return ops.reshape(projected, (-1, ops.shape(projected)[1], self.num_heads, self.head_dim))  # [B, T, N, H]


def _unit_rms(heads):
    """Scales `[..., H]` to root mean square 1 along H."""
    square = ops.mean(ops.square(ops.cast(heads, "float32")), axis=-1, keepdims=True)
    return heads * ops.cast(ops.rsqrt(square + 1e-6), heads.dtype)
