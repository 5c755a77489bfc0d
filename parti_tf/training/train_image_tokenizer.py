"""Trains ViT-VQGAN on images (Parti 2.1; ViT-VQGAN 3.3, 5.1)."""

import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parti_tf import config as config_lib
from parti_tf import preset_files
from parti_tf.config import ReconstructionLossConfig, VitVqganConfig
from parti_tf.data.image_files import labelled_grid
from parti_tf.data.image_processing import crop_for_image_tokenizer
from parti_tf.data.input_pipeline import image_text_dataset
from parti_tf.models.perceptual import PerceptualNetwork, load_mobilenet_v2_weights, perceptual_distance
from parti_tf.models.vit_vqgan import VitVqgan
from parti_tf.training import trainer
from parti_tf.training.held_out import find_held_out_splits, held_out_dataset
from parti_tf.training.options import TrainTokenizerOptions
from parti_tf.training.reconstruction_losses import CodebookUse, ReconstructionLosses, peak_signal_to_noise_ratio
from parti_tf.training.sample_pictures import SamplePictures


def run(options: TrainTokenizerOptions, callbacks: Sequence[keras.callbacks.Callback] = ()) -> VitVqgan:
    """Trains an image tokenizer on the images of a dataset (ViT-VQGAN 3.3).

    The finished run's folder holds `config.json` and `image_tokenizer.safetensors`, for `load_image_tokenizer`.

    Args:
      options: see there.
      callbacks: further Keras callbacks.

    Returns:
      The tokenizer, in float32.

    Raises:
      FileNotFoundError: the data, or the perceptual network where its loss has a weight, is missing.
      ValueError: the run folder holds another run, or the loss became NaN.
    """
    config, folder = options.training, Path(options.run_folder)
    held_out = find_held_out_splits(options.data, options.train_split)

    def read(split: str, **how: Any) -> tf.data.Dataset:
        batches = image_text_dataset(
            options.data, split, batch_size=config.batch_size, image_size=options.model.image_size, **how
        )
        return batches.map(lambda batch: batch["images"])

    validation = held_out_dataset(
        options.data,
        held_out,
        lambda split: read(split, shuffle=False, repeat=False, drop_remainder=False),
        config.batch_size,
        options.num_validation_examples,
    )
    model = trainer.train(
        lambda: make_training_model(options),
        lambda step: read(
            options.train_split,
            seed=config.seed,
            start_step=step,
            crop=crop_for_image_tokenizer if options.random_crop else None,
        ),
        validation,
        config,
        folder,
        monitor="val_loss",
        part=lambda model: model.tokenizer,
        identity={
            "model": config_lib.to_dict(options.model),
            "random_crop": options.random_crop,
            "start_from": options.start_from,
        },
        callbacks=[*callbacks, SamplePictures(folder, functools.partial(draw_reconstructions, _spread(validation)))],
    )
    tokenizer = VitVqgan(options.model)
    tokenizer.build()
    trainer.take_weights(tokenizer, model.tokenizer, folder, options.weights)
    preset_files.write_weights(folder / preset_files.IMAGE_TOKENIZER, tokenizer)
    return tokenizer


def make_training_model(options: TrainTokenizerOptions) -> "ImageTokenizerTraining":
    """Gives the built model of a run; loads the perceptual network only where its loss has a weight.

    Raises:
      FileNotFoundError: the perceptual network's weights are not there.
      ValueError: they are of another network.
    """
    config, distance = options.training, None
    if config.losses.perceptual:
        network = PerceptualNetwork(dtype=config.mixed_precision)
        load_mobilenet_v2_weights(network, options.perceptual_weights or None)
        distance = functools.partial(perceptual_distance, network)
    tokenizer = VitVqgan(options.model, dtype=config.mixed_precision)
    model = ImageTokenizerTraining(tokenizer, config.losses, distance)
    model.build()
    if options.start_from:
        _, weights = load_image_tokenizer(options.start_from)
        preset_files.read_weights(weights, tokenizer)
    return model


def draw_reconstructions(images: np.ndarray, model: "ImageTokenizerTraining") -> np.ndarray:
    """Gives one picture uint8 `[H, W, 3]` of images float `[B, h, w, 3]` above what the tokenizer makes of them."""
    made = model.tokenizer.detokenize(model.tokenizer.tokenize(images))
    pixels = np.round(np.concatenate([images, keras.ops.convert_to_numpy(made)]) * 255.0).astype(np.uint8)
    count = len(images)
    return labelled_grid(pixels, ["original"] * count + ["reconstruction"] * count, columns=count)


def _spread(validation: tf.data.Dataset, count: int = 8) -> np.ndarray:
    """Gives the first images of `count` batches, spread over all there are."""
    step = max(1, int(validation.cardinality()) // count)
    return np.stack([batch[0].numpy() for batch in validation.shard(step, 0).take(count)])


class ImageTokenizerTraining(keras.Model):
    """The tokenizer with its losses and metrics, for `compile` and `fit` on batches of images.

    Args:
      tokenizer: the `VitVqgan` to train.
      losses: the weights of the loss parts.
      perceptual_distance: see `ReconstructionLosses`; None where its weight is 0.

    Call arguments:
      images: float32 `[B, H, W, 3]` in [0, 1].

    Returns:
      `Reconstruction`.
    """

    def __init__(
        self,
        tokenizer: VitVqgan,
        losses: ReconstructionLossConfig,
        perceptual_distance: Callable[[Any, Any], Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.reconstruction_losses = ReconstructionLosses(losses, perceptual_distance)
        self.means = {name: keras.metrics.Mean(name=name) for name in (*self.reconstruction_losses.weights, "psnr")}
        self.codebook_use = CodebookUse(tokenizer.config.codebook_size)

    def build(self, input_shape=None):
        if not self.tokenizer.built:
            self.tokenizer.build(input_shape)
        self.built = True

    def call(self, images, training=False):
        return self.tokenizer(images, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        del y, sample_weight, training
        parts = self.reconstruction_losses.parts(x, y_pred)
        for name, value in parts.items():
            self.means[name].update_state(value)
        return self.reconstruction_losses.total(parts)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        del y, sample_weight
        self.means["psnr"].update_state(peak_signal_to_noise_ratio(x, y_pred.images))
        self.codebook_use.update_state(y_pred.quantized.tokens)
        return self.get_metrics_result()


def load_image_tokenizer(folder: str | os.PathLike) -> tuple[VitVqgan, Path]:
    """Gives a trained tokenizer and the file of its weights.

    Args:
      folder: of a finished run, or a preset's name or folder.

    Raises:
      FileNotFoundError: there is none, or the run is not finished.
      ValueError: a file is corrupted or does not fit the other.
    """
    folder = preset_files.find_preset(folder)
    values = json.loads((folder / preset_files.CONFIG).read_text())
    if "model" in values:
        config = config_lib.from_dict(VitVqganConfig, values["model"])
    else:
        config = preset_files.read_config(folder).image_tokenizer
    tokenizer, path = VitVqgan(config), folder / preset_files.IMAGE_TOKENIZER
    tokenizer.build()
    preset_files.read_weights(path, tokenizer)
    return tokenizer, path
