"""All pictures of a dataset in memory, with what is known of each."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from parti_tf.data.emoji import TRAIN_SPLIT
from parti_tf.data.examples import ImageTextExample, find_shards, find_splits, read_examples
from parti_tf.data.image_processing import decode_image, fit_image


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures by row, those of every split together.

    Attributes:
      examples: one for each row.
      splits: the name of the split that each row is of.
      images: uint8 [rows, image_size, image_size, 3].
    """

    examples: Sequence[ImageTextExample]
    splits: Sequence[str]
    images: np.ndarray

    def rows_of(self, split: str) -> np.ndarray:
        """Gives the rows of a split, int64 [rows of it], in the order of its files."""
        return np.flatnonzero(np.array(self.splits) == split)

    @property
    def held_out_splits(self) -> list[str]:
        """The names of all splits but `train`, sorted."""
        return sorted({*self.splits} - {TRAIN_SPLIT})

    def draw_rows(self, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Gives `count` of `rows`, drawn evenly, in the order of the draw; all of them where there are no more.

        The draw depends on the seed and the examples' ids, not on their order in the files.
        """
        by_id = np.array(sorted(rows, key=lambda row: self.examples[row].id))
        return np.random.default_rng(seed).permutation(by_id)[:count]


def load_gallery(folder: str | os.PathLike, image_size: int) -> Gallery:
    """Gives every picture of a dataset folder, resized to `image_size` where it has another size.

    Raises:
      FileNotFoundError: the folder or one of its shards is missing.
      ValueError: a shard is truncated or corrupt, or the folder holds no train split, or nothing besides.
    """
    examples: list[ImageTextExample] = []
    splits: list[str] = []
    found = find_splits(folder) if os.path.isdir(folder) else []
    if TRAIN_SPLIT not in found or len(found) < 2:
        raise FileNotFoundError(
            f"{folder} holds {', '.join(found) or 'no split'}; it must hold train and held-out splits"
        )
    for split in found:
        members = list(read_examples(find_shards(folder, split)))
        examples += members
        splits += [split] * len(members)
    return Gallery(examples, splits, _decode([example.image for example in examples], image_size))


def _decode(files: list[bytes], image_size: int) -> np.ndarray:
    images = tf.data.Dataset.from_tensor_slices(files)
    images = images.map(lambda data: fit_image(decode_image(data), image_size), num_parallel_calls=tf.data.AUTOTUNE)
    return np.concatenate(list(images.batch(256).as_numpy_iterator()))


def map_images(
    function: Callable[[tf.Tensor], Sequence[Any]], images: np.ndarray, batch_size: int, description: str
) -> list[np.ndarray]:
    """Gives what a function makes of images, batch by batch, with a progress bar.

    Args:
      function: takes float32 [batch_size, height, width, 3] in [0, 1], gives tensors [batch_size, ...]. The
        last batch is filled up, so that it sees one shape only.
      images: uint8 [count, height, width, 3].

    Returns:
      One array [count, ...] for each tensor.
    """
    parts = []
    for start in tqdm(range(0, len(images), batch_size), desc=description, unit="batch"):
        batch = images[start : start + batch_size]
        padding = [(0, batch_size - len(batch))] + [(0, 0)] * 3
        outputs = function(tf.constant(np.pad(batch, padding), tf.float32) / 255.0)
        parts.append([np.asarray(output)[: len(batch)] for output in outputs])
    return [np.concatenate(output) for output in zip(*parts, strict=True)]
