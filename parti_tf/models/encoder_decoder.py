"""Parti's Transformer: a caption in, image-token logits out (Parti 2.2, Table 1)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from parti_tf.config import EncoderDecoderConfig
from parti_tf.layers import attention_masks
from parti_tf.layers.attention import MASKED, KVCache, write_slot
from parti_tf.layers.embeddings import GridPositionEmbedding, SequencePositionEmbedding, small_normal
from parti_tf.layers.projection import Projection
from parti_tf.layers.transformer import TransformerBlock, layer_norm
from parti_tf.models.configured_model import ConfiguredModel


class DecoderCache(NamedTuple):
    """What the decoder keeps between positions; self-attention changes, the rest is computed once a caption.

    Attributes:
      self_attention: a ring buffer for each layer, no longer than the layer can look back.
      cross_attention: the caption's keys and values for each layer.
      text_bias: float32 `[B * N, 1, S]`, added to cross-attention scores.
    """

    self_attention: tuple[KVCache, ...]
    cross_attention: tuple[KVCache, ...]
    text_bias: Any


@keras.saving.register_keras_serializable("parti_tf")
class EncoderDecoder(ConfiguredModel):
    """The encoder-decoder Transformer (Parti 2.2).

    The caption is encoded in both directions; the image tokens are predicted one after the other in raster
    order. Blocks are pre-LN, with one more LayerNorm after the last of the encoder and of the decoder (Parti 3).

    Ours: the input at position t is the embedding of token t - 1 (a learned start vector at 0) plus the 2-D
    position of the cell to be drawn, t. Embeddings and logits are untied; logits are float32 (Parti 3).

    Args:
      config: an `EncoderDecoderConfig`.

    Call arguments:
      inputs: a dict of `text_ids` int32 `[B, text_length]`, 0 = padding, and `image_tokens` int32
        `[B, grid_size**2]`.

    Returns:
      float32 `[B, grid_size**2, codebook_size]`: logits of each token given the caption and the tokens before.
    """

    config_class = EncoderDecoderConfig
    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig, **kwargs):
        super().__init__(config, **kwargs)
        policy, width = self.dtype_policy, config.model_dim
        self.text_embedding = keras.layers.Embedding(
            config.text_vocab_size, width, small_normal(), dtype=policy, name="text_embedding"
        )
        self.text_position = SequencePositionEmbedding(config.text_length, width, dtype=policy, name="text_position")
        self.encoder_blocks = [
            self._block(f"encoder_{index}", cross_attention=False) for index in range(config.num_encoder_layers)
        ]
        self.encoder_norm = layer_norm("encoder_norm", policy)
        self.image_embedding = keras.layers.Embedding(
            config.codebook_size + 1, width, small_normal(), dtype=policy, name="image_embedding"
        )
        self.image_position = GridPositionEmbedding(config.grid_size, width, dtype=policy, name="image_position")
        self.embedding_dropout = keras.layers.Dropout(config.dropout_rate, dtype=policy)
        self.decoder_blocks = [
            self._block(f"decoder_{index}", cross_attention=True) for index in range(config.num_decoder_layers)
        ]
        self.decoder_norm = layer_norm("decoder_norm", policy)
        self.logits = Projection(width, config.codebook_size, dtype="float32", name="logits")

    def _block(self, name: str, cross_attention: bool) -> TransformerBlock:
        config = self.config
        return TransformerBlock(
            config.model_dim,
            config.mlp_dim,
            config.num_heads,
            config.head_dim,
            cross_attention=cross_attention,
            qk_norm=config.qk_norm,
            dropout_rate=config.dropout_rate,
            dtype=self.dtype_policy,
            name=name,
        )

    def build(self, input_shape=None):
        del input_shape
        stream = (None, None, self.config.model_dim)
        for layer in (
            self.text_embedding,
            self.text_position,
            *self.encoder_blocks,
            self.encoder_norm,
            self.image_embedding,
            self.image_position,
            *self.decoder_blocks,
            self.decoder_norm,
            self.logits,
        ):
            layer.build(stream)
        self.built = True

    def offsets(self, layer: int):
        """Gives the allowed offsets of a decoder layer's self-attention; see `attention_masks`. Bool."""
        config = self.config
        if layer in config.full_attention_layers:
            return attention_masks.full_causal_offsets(config.num_tokens)
        return attention_masks.conv_causal_offsets(config.grid_size, config.conv_window)

    def call(self, inputs, training=False):
        text_ids, image_tokens = inputs["text_ids"], inputs["image_tokens"]
        encoded = self.encode(text_ids, training=training)
        text_mask = attention_masks.padding_mask(text_ids)
        start = ops.full_like(image_tokens[:, :1], self.config.codebook_size)
        shifted = ops.concatenate([start, image_tokens[:, :-1]], axis=1)
        stream = self.image_position(self.image_embedding(shifted))
        stream = self.embedding_dropout(stream, training=training)
        for index, block in enumerate(self.decoder_blocks):
            mask = attention_masks.causal_mask(self.offsets(index), self.config.num_tokens)
            stream = block(stream, mask, encoded, text_mask, training=training)
        return self.logits(self.decoder_norm(stream))

    def encode(self, text_ids, training=False):
        """Gives the encoded caption `[B, S, D]` of int32 `[B, S]` (Parti 2.2)."""
        mask = attention_masks.padding_mask(text_ids)
        stream = self.text_position(self.text_embedding(text_ids))
        stream = self.embedding_dropout(stream, training=training)
        for block in self.encoder_blocks:
            stream = block(stream, mask, training=training)
        return self.encoder_norm(stream)

    def start_cache(self, text_ids) -> DecoderCache:
        """Encodes captions int32 `[B, S]` and gives the cache that decoding starts from."""
        encoded = self.encode(text_ids)
        heads = self.config.num_heads
        text_bias = ops.where(ops.not_equal(text_ids, 0), 0.0, MASKED)[:, None, :]
        return DecoderCache(
            tuple(
                block.self_attention.empty_cache(ops.shape(text_ids)[0], len(self.offsets(index)))
                for index, block in enumerate(self.decoder_blocks)
            ),
            tuple(block.cross_attention_layer.cache_sources(encoded) for block in self.decoder_blocks),
            ops.repeat(text_bias, heads, axis=0),
        )

    def step(self, last_tokens, position, cache: DecoderCache, write: Callable = write_slot):
        """Runs the decoder for one position.

        Args:
          last_tokens: int32 `[B]`, the tokens at position - 1; `start_token` at position 0.
          position: int32 scalar.
          cache: of the positions before.
          write: see `MultiHeadAttention.append`.

        Returns:
          The normalised stream `[B, D]`, whose `logits` predict the token at `position`, and the new cache.
        """
        where = ops.take(self.image_position.table(), position, axis=0)
        stream = self.image_embedding(last_tokens) + where
        biases: dict[bool, Any] = {}
        caches = []
        for index, block in enumerate(self.decoder_blocks):
            full = index in self.config.full_attention_layers
            offsets = self.offsets(index)
            if full not in biases:
                biases[full] = attention_masks.ring_bias(offsets, position, MASKED)
            stream, layer_cache = block.step(
                stream,
                cache.self_attention[index],
                position % len(offsets),
                biases[full],
                cache.cross_attention[index],
                cache.text_bias,
                write,
            )
            caches.append(layer_cache)
        return self.decoder_norm(stream), cache._replace(self_attention=tuple(caches))

    @property
    def start_token(self) -> int:
        """The input before the first token: one past the codebook."""
        return self.config.codebook_size
