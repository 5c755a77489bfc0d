"""The pre-LN Transformer block that every model here is a stack of (Parti 2.2, 3; ViT-VQGAN 3.1)."""

import keras

from parti_tf.layers.attention import KVCache, MultiHeadAttention
from parti_tf.layers.projection import Projection

LAYER_NORM_EPSILON = 1e-6  # Ours: the papers print none


def layer_norm(name: str, dtype=None) -> keras.layers.LayerNormalization:
    """Gives the layer normalisation used throughout; it computes in float32 under any policy (Parti 3)."""
    return keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, dtype=dtype, name=name)


@keras.saving.register_keras_serializable("parti_tf")
class TransformerBlock(keras.layers.Layer):
    """Self-attention, optional cross-attention and a two-matrix MLP, each as `x + f(LayerNorm(x))`.

    The MLP is plain, not gated: only that reproduces Table 1's totals.

    Args:
      model_dim: width D of the residual stream.
      mlp_dim: width F inside the MLP.
      num_heads: attention heads N.
      head_dim: width H of a head.
      cross_attention: whether the block also attends to `sources`.
      activation: of the MLP; a Keras activation name. Parti Fig. 5 draws relu.
      qk_norm: see `MultiHeadAttention`.
      dropout_rate: on attention weights, inside the MLP and on each residual (ViT-VQGAN 4).

    Call arguments:
      inputs: `[B, T, D]`.
      mask: bool, broadcastable to `[B, N, T, T]`, for self-attention; None lets all attend.
      sources: `[B, S, D]`, only with cross_attention.
      sources_mask: bool, broadcastable to `[B, N, T, S]`.

    Returns:
      `[B, T, D]`.
    """

    def __init__(
        self,
        model_dim: int,
        mlp_dim: int,
        num_heads: int,
        head_dim: int,
        cross_attention: bool = False,
        activation: str = "relu",
        qk_norm: bool = False,
        dropout_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.model_dim = model_dim
        self.mlp_dim = mlp_dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.cross_attention = cross_attention
        self.activation = activation
        self.qk_norm = qk_norm
        self.dropout_rate = dropout_rate
        policy = self.dtype_policy

        def attention(name: str) -> MultiHeadAttention:
            return MultiHeadAttention(model_dim, num_heads, head_dim, qk_norm, dropout_rate, dtype=policy, name=name)

        self.self_attention_norm = layer_norm("self_attention_norm", policy)
        self.self_attention = attention("self_attention")
        if cross_attention:
            self.cross_attention_norm = layer_norm("cross_attention_norm", policy)
            self.cross_attention_layer = attention("cross_attention")
        self.mlp_norm = layer_norm("mlp_norm", policy)
        self.mlp_in = Projection(model_dim, mlp_dim, activation=activation, dtype=policy, name="mlp_in")
        self.mlp_out = Projection(mlp_dim, model_dim, dtype=policy, name="mlp_out")
        self.dropout = keras.layers.Dropout(dropout_rate, dtype=policy)

    def build(self, *_):
        stream = (None, None, self.model_dim)
        self.self_attention_norm.build(stream)
        self.self_attention.build()
        if self.cross_attention:
            self.cross_attention_norm.build(stream)
            self.cross_attention_layer.build()
        self.mlp_norm.build(stream)
        self.mlp_in.build()
        self.mlp_out.build()
        self.built = True

    def call(self, inputs, mask=None, sources=None, sources_mask=None, training=False):
        normed = self.self_attention_norm(inputs)
        stream = inputs + self.dropout(self.self_attention(normed, normed, mask, training=training), training=training)
        if self.cross_attention:
            attended = self.cross_attention_layer(
                self.cross_attention_norm(stream), sources, sources_mask, training=training
            )
            stream = stream + self.dropout(attended, training=training)
        return stream + self.mlp(stream, training=training)

    def step(self, stream, cache: KVCache, slot, bias, text_cache: KVCache, text_bias, write):
        """Runs the block for one position, as `call` would at the end of the positions so far.

        Args:
          stream: `[B, D]`, the residual stream at the position.
          cache, slot, bias, write: of self-attention; see `MultiHeadAttention.append` and `attend_step`.
          text_cache, text_bias: of cross-attention.

        Returns:
          The stream after the block `[B, D]`, and the self-attention cache with the position in it.
        """
        normed = self.self_attention_norm(stream)
        cache = self.self_attention.append(cache, normed, slot, write)
        stream = stream + self.self_attention.attend_step(normed, cache, bias)
        attended = self.cross_attention_layer.attend_step(self.cross_attention_norm(stream), text_cache, text_bias)
        stream = stream + attended
        return stream + self.mlp(stream), cache

    def mlp(self, stream, training=False):
        """Gives the MLP branch `[B, T, D]` of the residual stream."""
        hidden = self.dropout(self.mlp_in(self.mlp_norm(stream)), training=training)
        return self.dropout(self.mlp_out(hidden), training=training)
