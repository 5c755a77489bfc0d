"""The image tokens of a dataset, computed once by a frozen image tokenizer (Parti 2.1)."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

from parti_tf.data.examples import ImageTextExample, count_examples, find_shards, read_examples, write_shards
from parti_tf.data.input_pipeline import image_text_dataset
from parti_tf.models.vit_vqgan import VitVqgan


def write_image_tokens(
    tokenizer: VitVqgan, weights: Path, data: str, splits: list[str], out: Path, batch_size: int = 32
) -> Path:
    """Writes the splits of a dataset with image tokens in place of images, and gives the folder.

    The folder's name is a hash of the tokenizer's config and weights and of the records, so tokens of another
    tokenizer are never taken for its own. Splits that are there already are kept.

    Args:
      tokenizer: the model.
      weights: the file that its weights were read from.
      data: folder of the records.
      splits: names of the splits.
      out: where the folder goes.
      batch_size: images at a time.
    """
    folder = out / f"image_tokens-{_fingerprint(tokenizer, weights, data, splits)}"
    size = tokenizer.config.image_size
    tokenize = tf.function(tokenizer.tokenize, [tf.TensorSpec([None, size, size, 3])])
    for split in splits:
        sources = find_shards(data, split)
        try:
            find_shards(folder, split)
        except FileNotFoundError:
            examples = _with_tokens(tokenize, size, data, split, batch_size)
            write_shards(folder, split, examples, num_shards=len(sources))
    return folder


def _with_tokens(tokenize, image_size: int, data: str, split: str, batch_size: int) -> Iterator[ImageTextExample]:
    batches = image_text_dataset(
        data, split, batch_size=batch_size, image_size=image_size, shuffle=False, repeat=False, drop_remainder=False
    )
    rows = (row for batch in batches for row in tokenize(batch["images"]).numpy().tolist())
    pairs = zip(read_examples(find_shards(data, split)), rows, strict=True)
    for example, row in tqdm(pairs, desc=f"image tokens, {split}", unit="image", total=count_examples(data, split)):
        yield dataclasses.replace(example, image=b"", image_tokens=tuple(row))


def _fingerprint(tokenizer: VitVqgan, weights: Path, data: str, splits: list[str]) -> str:
    digest = hashlib.sha256(repr(tokenizer.config).encode())
    for path in [weights, *(shard for split in splits for shard in find_shards(data, split))]:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
