"""Trains the caption-to-image-token Transformer (Parti 2.2, 3)."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from parti_tf import config as config_lib
from parti_tf import preset_files
from parti_tf.config import PartiConfig, TextTokenizerConfig
from parti_tf.data.examples import find_shards, read_examples
from parti_tf.data.image_files import labelled_grid
from parti_tf.data.input_pipeline import image_text_dataset
from parti_tf.data.text_tokenizer import TextTokenizer
from parti_tf.generation.guidance import drop_captions
from parti_tf.models.encoder_decoder import EncoderDecoder
from parti_tf.models.vit_vqgan import VitVqgan
from parti_tf.pipeline import TextToImage
from parti_tf.training import trainer
from parti_tf.training.held_out import find_held_out_splits, held_out_dataset
from parti_tf.training.image_token_cache import write_image_tokens
from parti_tf.training.options import TrainTransformerOptions
from parti_tf.training.sample_pictures import SamplePictures
from parti_tf.training.train_image_tokenizer import load_image_tokenizer


def run(options: TrainTransformerOptions, callbacks: Sequence[keras.callbacks.Callback] = ()) -> TextToImage:
    """Trains a Transformer on image-text records, and writes the whole system as a preset (Parti 3).

    The images become tokens once, before the training, and from their middle squares. Departs from the paper:
    it crops anew every time (4.1).

    Args:
      options: see there.
      callbacks: further Keras callbacks.

    Returns:
      The system that the preset holds, in float32.

    Raises:
      FileNotFoundError: the data, the text tokenizer or the image tokenizer is missing.
      ValueError: the parts do not fit one another, or the run folder holds another run.
    """
    config, folder = options.training, Path(options.run_folder)
    held_out = find_held_out_splits(options.data, options.train_split)
    text_tokenizer = TextTokenizer(options.text_tokenizer, options.model.text_length)
    image_tokenizer, weights = load_image_tokenizer(options.image_tokenizer)
    system = _make_system(options, text_tokenizer, image_tokenizer)
    tokens = write_image_tokens(image_tokenizer, weights, options.data, [options.train_split, *held_out], folder)

    def make_model() -> EncoderDecoderTraining:
        transformer = EncoderDecoder(options.model, dtype=config.mixed_precision)
        model = EncoderDecoderTraining(transformer, text_tokenizer.empty_caption_ids(), config.caption_dropout)
        model.build()
        if options.start_from:
            preset_files.read_weights(
                preset_files.find_preset(options.start_from) / preset_files.TRANSFORMER, transformer
            )
        return model

    def read(split: str, **how: Any) -> tf.data.Dataset:
        return image_text_dataset(
            tokens, split, batch_size=config.batch_size, text_tokenizer=text_tokenizer, image_tokens=True, **how
        )

    pictures = SamplePictures(folder, functools.partial(draw_captions, system, choose_captions(options, held_out)))
    model = trainer.train(
        make_model,
        lambda step: read(options.train_split, seed=config.seed, start_step=step),
        held_out_dataset(
            tokens,
            held_out,
            lambda split: read(split, shuffle=False, repeat=False, drop_remainder=False),
            config.batch_size,
            options.num_validation_examples,
        ),
        config,
        folder,
        monitor="val_loss",
        part=lambda model: model.transformer,
        identity={
            "model": config_lib.to_dict(options.model),
            "start_from": options.start_from,
            "image_tokens": tokens.name,
            "text_tokenizer": hashlib.sha256(Path(options.text_tokenizer).read_bytes()).hexdigest(),
        },
        callbacks=[*callbacks, pictures],
    )
    trainer.take_weights(system.transformer, model.transformer, folder, options.weights)
    system.save_to_preset(options.preset_out, options.preset_dtype)
    return system


def _make_system(
    options: TrainTransformerOptions, text_tokenizer: TextTokenizer, image_tokenizer: VitVqgan
) -> TextToImage:
    """Gives the system that the run will end with, in float32; its Transformer is not trained yet."""
    text = TextTokenizerConfig(options.model.text_vocab_size, options.model.text_length)
    config = PartiConfig(text, image_tokenizer.config, options.model, options.sampling)
    transformer = EncoderDecoder(options.model)
    transformer.build()
    return TextToImage(config, text_tokenizer, image_tokenizer, transformer)


def choose_captions(options: TrainTransformerOptions, held_out: list[str]) -> tuple[str, ...]:
    """Gives the captions to draw: those asked for, or a few of the train split and of each held-out one."""
    if options.sample_captions:
        return options.sample_captions
    captions = []
    for split in (options.train_split, *held_out):
        examples = read_examples(find_shards(options.data, split)[:1])
        captions += [example.caption for example, _ in zip(examples, range(2), strict=False)]
    return tuple(captions)


def draw_captions(system: TextToImage, captions: Sequence[str], model: "EncoderDecoderTraining") -> np.ndarray:
    """Gives one picture uint8 `[H, W, 3]` of what the model draws of captions; the same seed every time.

    The model's weights go into `system`, which draws in float32 whatever the training's precision.
    """
    system.transformer.set_weights(model.transformer.get_weights())
    return labelled_grid(system.generate(captions, seed=0)[:, 0], captions, columns=6)


class EncoderDecoderTraining(keras.Model):
    """The Transformer with caption dropout, for `compile` and `fit` on batches of captions and image tokens.

    The loss is next-token cross-entropy, a mean over the image tokens (Parti 5.4). There is no loss on text.

    Args:
      transformer: the `EncoderDecoder` to train.
      empty_caption_ids: int32 `[S]`, the caption that stands for none.
      caption_dropout: share of captions replaced by it in training.
      seed: of the caption dropout; `trainer.train` sets it anew every epoch.

    Call arguments:
      inputs: a dict of `text_ids` int32 `[B, S]` and `image_tokens` int32 `[B, L]`.

    Returns:
      Logits, float32 `[B, L, K]`.
    """

    def __init__(self, transformer: EncoderDecoder, empty_caption_ids, caption_dropout: float, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.transformer = transformer
        self.empty_caption_ids = empty_caption_ids
        self.caption_dropout = caption_dropout
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.token_accuracy = keras.metrics.SparseCategoricalAccuracy(name="token_accuracy")

    def build(self, input_shape=None):
        if not self.transformer.built:
            self.transformer.build(input_shape)
        self.built = True

    def call(self, inputs, training=False):
        text_ids = inputs["text_ids"]
        if training and self.caption_dropout:
            text_ids = drop_captions(text_ids, self.empty_caption_ids, self.caption_dropout, self.seed_generator)
        return self.transformer({"text_ids": text_ids, "image_tokens": inputs["image_tokens"]}, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        del y, sample_weight, training
        losses = keras.losses.sparse_categorical_crossentropy(x["image_tokens"], y_pred, from_logits=True)
        return ops.mean(losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        del y, sample_weight
        self.token_accuracy.update_state(x["image_tokens"], y_pred)
        return self.get_metrics_result()
