"""The codebook of the image tokenizer (ViT-VQGAN 3.2)."""

from typing import Any, NamedTuple

import keras
from keras import ops


class Quantized(NamedTuple):
    """What `VectorQuantizer` gives.

    Attributes:
      codes: `[B, L, C]`, the unit-length code of each token; gradients pass straight through to the input.
      tokens: int32 `[B, L]`, its index in the codebook.
      codebook_loss: scalar, moves codes toward the encoder: ||sg[z] - e||^2 of Eq. 1.
      commitment_loss: scalar, moves the encoder toward its codes: ||z - sg[e]||^2, before beta.
    """

    codes: Any
    tokens: Any
    codebook_loss: Any
    commitment_loss: Any


@keras.saving.register_keras_serializable("parti_tf")
class VectorQuantizer(keras.layers.Layer):
    """Replaces each vector by its nearest code, both l2-normalised (ViT-VQGAN 3.2, Eq. 1).

    On unit vectors the nearest code is the one of largest cosine. Both losses are means over elements of the
    unit vectors.

    Ours: codes that stay unused are restarted. A running count of each code's use starts at zero; where it
    is under a tenth of an even share, a training step leaves the code at an encoder output of its batch, drawn
    in proportion to its distance from the code it got. All counts being zero at first, the first training step
    initialises the whole codebook from encoder outputs by the same rule.

    Args:
      codebook_size: number of codes K.
      codebook_dim: width C of a code.
      usage_decay: of the running count, per training step.
      restart_below: share of an even use under which a code is restarted; 0 restarts none.

    Call arguments:
      inputs: `[B, L, C]`, any length of vectors.
      training: count uses and restart dead codes.

    Returns:
      `Quantized`.
    """

    def __init__(
        self,
        codebook_size: int,
        codebook_dim: int,
        usage_decay: float = 0.97,
        restart_below: float = 0.1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.usage_decay = usage_decay
        self.restart_below = restart_below
        self.seed_generator = keras.random.SeedGenerator(0)

    def build(self, input_shape):
        del input_shape
        self.codebook = self.add_weight(
            name="codebook",
            shape=(self.codebook_size, self.codebook_dim),
            initializer=keras.initializers.RandomNormal(),
            autocast=False,
        )
        self.usage = self.add_weight(
            name="usage", shape=(self.codebook_size,), initializer="zeros", trainable=False, autocast=False
        )
        self.built = True

    def call(self, inputs, training=False):
        vectors = _unit_length(ops.cast(inputs, "float32"))
        tokens = self.nearest(vectors)
        codes = self.lookup(tokens)
        codebook_loss = ops.mean(ops.square(ops.stop_gradient(vectors) - codes))
        commitment_loss = ops.mean(ops.square(vectors - ops.stop_gradient(codes)))
        if training:
            self._restart_dead_codes(vectors, codes)
            self._count(tokens)
        through = vectors + ops.stop_gradient(codes - vectors)
        return Quantized(ops.cast(through, self.compute_dtype), tokens, codebook_loss, commitment_loss)

    def tokenize(self, inputs):
        """Gives the index of the nearest code, int32 `[B, L]`, of vectors `[B, L, C]`."""
        return self.nearest(_unit_length(ops.cast(inputs, "float32")))

    def nearest(self, vectors):
        """Gives the index of the nearest code, int32 `[B, L]`, of unit vectors `[B, L, C]`."""
        cosine = ops.matmul(vectors, ops.transpose(_unit_length(ops.convert_to_tensor(self.codebook))))
        return ops.cast(ops.argmax(cosine, axis=-1), "int32")

    def lookup(self, tokens):
        """Gives the unit code of each token, float32 `[B, L, C]`, of tokens int32 `[B, L]`."""
        return _unit_length(ops.take(ops.convert_to_tensor(self.codebook), tokens, axis=0))

    def _count(self, tokens):
        ones = ops.ones_like(ops.reshape(tokens, (-1,)), dtype="float32")
        counts = ops.segment_sum(ones, ops.reshape(tokens, (-1,)), num_segments=self.codebook_size)
        self.usage.assign(self.usage_decay * self.usage + (1 - self.usage_decay) * counts)

    def _restart_dead_codes(self, vectors, codes):
        vectors = ops.stop_gradient(ops.reshape(vectors, (-1, self.codebook_dim)))
        codes = ops.stop_gradient(ops.reshape(codes, (-1, self.codebook_dim)))
        distance = ops.sum(ops.square(vectors - codes), axis=-1)
        even_share = ops.cast(ops.shape(vectors)[0], "float32") / self.codebook_size
        dead = self.usage < self.restart_below * even_share
        # Gumbel-max, repeated: vectors ranked by log weight + noise are a draw in proportion to weight.
        uniform = keras.random.uniform(ops.shape(distance), 1e-7, 1 - 1e-7, seed=self.seed_generator)
        rank = ops.argsort(ops.log(-ops.log(uniform)) - ops.log(ops.maximum(distance, 1e-6)))
        place = ops.cumsum(ops.cast(dead, "int32")) - 1  # the first dead code gets the first of the ranking, and so on
        drawn = ops.take(vectors, ops.take(rank, place % ops.shape(rank)[0]), axis=0)
        self.codebook.assign(ops.where(dead[:, None], drawn, self.codebook))
        self.usage.assign(ops.where(dead, even_share, self.usage))


def _unit_length(vectors):
    return vectors * ops.rsqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + 1e-12)
