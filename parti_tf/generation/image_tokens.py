"""Captions to image tokens: encoder, guided decoding and draws put together (Parti 2.2, 2.4)."""

from typing import NamedTuple

import keras
import tensorflow as tf

from parti_tf.generation import decoding, guidance, sampling
from parti_tf.layers.attention import write_slot
from parti_tf.layers.projection import Projection
from parti_tf.models.encoder_decoder import EncoderDecoder


class SamplingRows(NamedTuple):
    """How each row is drawn, one value a row; see `config.SamplingConfig`.

    Attributes:
      seed: int32 `[B, 2]`.
      guidance_scale, temperature, top_p: float32 `[B]`.
      top_k: int32 `[B]`.
    """

    seed: tf.Tensor
    guidance_scale: tf.Tensor
    temperature: tf.Tensor
    top_k: tf.Tensor
    top_p: tf.Tensor


class ImageTokenSampler:
    """Draws the image tokens of captions, all at once or some at a time.

    Args:
      transformer: the model.
      empty_caption_ids: int32 `[S]`, the caption that stands for none.
      jit_compile: whether the methods will be compiled by XLA. It decides how kernels and caches are handed
        to the loop, not what is computed.
      guided: False leaves out the unconditional half of the batch, as if every guidance scale were 1.
    """

    def __init__(self, transformer: EncoderDecoder, empty_caption_ids, jit_compile: bool = False, guided: bool = True):
        self.transformer = transformer
        self.empty_caption_ids = tf.constant(empty_caption_ids, tf.int32)
        self.jit_compile = jit_compile
        self.guided = guided

    def sample(self, text_ids: tf.Tensor, rows: SamplingRows) -> tf.Tensor:
        """Draws every token. int32 `[B, num_tokens]` of captions int32 `[B, S]`."""
        state = self.advance(self.start(text_ids), rows, self.transformer.config.num_tokens)
        return tf.transpose(state.tokens)

    def start(self, text_ids: tf.Tensor) -> decoding.DecodeState:
        """Encodes captions int32 `[B, S]` and gives the state before the first token."""
        captions = guidance.with_empty_captions(text_ids, self.empty_caption_ids) if self.guided else text_ids
        return decoding.start_state(
            self.transformer.start_cache(captions),
            tf.shape(text_ids)[0],
            self.transformer.start_token,
            self.transformer.config.num_tokens,
        )

    def advance(self, state: decoding.DecodeState, rows: SamplingRows, num_steps: int) -> decoding.DecodeState:
        """Draws `num_steps` more tokens."""
        model = self.transformer
        uniform = sampling.uniform_draws(rows.seed, model.config.num_tokens)
        draw = decoding.DrawRows(rows.temperature, rows.top_k, rows.top_p)
        predict = self._predict(rows.guidance_scale)
        return decoding.decode(predict, state, uniform, draw, num_steps)

    def _predict(self, guidance_scale: tf.Tensor) -> decoding.Predict:
        write = write_slot if self.jit_compile else decoding.write_slot_in_place
        model = self.transformer

        def step(last_tokens, position, cache):
            return model.step(last_tokens, position, cache, write)

        if self.guided:
            predict = guidance.guided_predict(step, model.logits, guidance_scale)
        else:

            def predict(last_tokens, position, cache):
                stream, cache = step(last_tokens, position, cache)
                return model.logits(stream), cache

        return _with_turned_kernels(predict, model) if self.jit_compile else predict


def _with_turned_kernels(predict: decoding.Predict, model: keras.Model) -> decoding.Predict:
    """Gives a `predict` whose kernels were turned once, ahead of the loop.

    XLA on CPU would turn each kernel anew in every step. Turning it back inside the loop cancels the layers' own
    transposition, so the loop reads what stands here.
    """
    kernels = [layer.kernel for layer in model._flatten_layers() if isinstance(layer, Projection)]
    turned = [tf.transpose(kernel) for kernel in kernels]

    def predict_turned(last_tokens, position, cache):
        mapping = [(kernel, tf.transpose(value)) for kernel, value in zip(kernels, turned, strict=True)]
        with keras.StatelessScope(state_mapping=mapping):
            return predict(last_tokens, position, cache)

    return predict_turned
