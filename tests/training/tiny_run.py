"""The smallest dataset, and the smallest run of each training on it."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from parti_tf.config import OptimizerConfig, ReconstructionLossConfig, TrainingConfig
from parti_tf.data.examples import ImageTextExample, write_shards
from parti_tf.data.text_tokenizer import train_text_tokenizer
from parti_tf.training import train_encoder_decoder, train_image_tokenizer
from parti_tf.training.options import TrainTokenizerOptions, TrainTransformerOptions
from tests import tiny

TRAINING = TrainingConfig(
    total_steps=6,
    steps_per_epoch=3,
    batch_size=8,
    jit_compile=False,
    caption_dropout=0.3,
    optimizer=OptimizerConfig(learning_rate=1e-2, final_rate=1e-3, warmup_steps=2, clip_norm=1.0),
    losses=ReconstructionLossConfig(perceptual=0.0),
)
HELD_OUT = 12


def draw_image(index: int, size: int = 16) -> np.ndarray:
    """Gives a picture of two coloured blocks, uint8 [size, size, 3], another for each index."""
    random = np.random.default_rng(index)
    image = np.full((size, size, 3), random.integers(0, 256, 3), np.uint8)
    top, left = random.integers(0, size // 2, 2)
    image[top : top + size // 2, left : left + size // 2] = random.integers(0, 256, 3)
    return image


def write_dataset(folder: Path) -> Path:
    """Writes 60 pairs to train on, 12 held out in two splits, and a text tokenizer; gives the folder."""
    examples = []
    for index, caption in enumerate(tiny.CAPTIONS):
        file = io.BytesIO()
        Image.fromarray(draw_image(index)).save(file, "PNG")
        examples.append(ImageTextExample(str(index), caption, file.getvalue()))
    write_shards(folder, "train", examples[HELD_OUT:], num_shards=2)
    write_shards(folder, "unseen", examples[:9])
    write_shards(folder, "unseen_too", examples[9:HELD_OUT])
    (folder / "captions.txt").write_text("\n".join(tiny.CAPTIONS) + "\n")
    model = folder / "sentencepiece.model"
    train_text_tokenizer(folder / "captions.txt", model, tiny.TEXT_TOKENIZER, character_coverage=1.0)
    return folder


def tokenizer_options(data: Path, run_folder: Path, **changes: Any) -> TrainTokenizerOptions:
    """Gives the smallest tokenizer run, with dropout, some options changed."""
    vit = dataclasses.replace(tiny.VIT, dropout_rate=0.1)
    model = dataclasses.replace(tiny.VIT_VQGAN, encoder=vit, decoder=vit)
    options = TrainTokenizerOptions(data=str(data), run_folder=str(run_folder), model=model, training=TRAINING)
    return dataclasses.replace(options, **changes)


def transformer_options(data: Path, run_folder: Path, image_tokenizer: Path, **changes: Any) -> TrainTransformerOptions:
    """Gives the smallest Transformer run, with dropout, some options changed."""
    options = TrainTransformerOptions(
        data=str(data),
        run_folder=str(run_folder),
        text_tokenizer=str(data / "sentencepiece.model"),
        image_tokenizer=str(image_tokenizer),
        preset_out=str(run_folder / "preset"),
        preset_dtype="float32",
        sample_captions=("a red heart",),
        model=dataclasses.replace(tiny.ENCODER_DECODER, num_decoder_layers=1),
        training=TRAINING,
    )
    return dataclasses.replace(options, **changes)


def train(
    stage: str, data: Path, run_folder: Path, image_tokenizer: Path, callbacks: Sequence[keras.callbacks.Callback] = ()
) -> Path:
    """Runs one of the two trainings to its end and gives the file of its weights."""
    if stage == "tokenizer":
        train_image_tokenizer.run(tokenizer_options(data, run_folder, random_crop=True), callbacks)
        return run_folder / "image_tokenizer.safetensors"
    train_encoder_decoder.run(transformer_options(data, run_folder, image_tokenizer), callbacks)
    return run_folder / "preset" / "transformer.safetensors"
