"""From shards to training batches: what a batch holds depends on the seed and its step alone.

The stream of examples is cut into epochs. Each epoch puts the shards in an order of its own, reads them one
after another and shuffles one window of records after another, all by stateless draws from the seed, the
epoch and the window. So step N of a resumed run is step N of an uninterrupted one, found by skipping whole
shards and reading at most one shard and one window in vain. No global seed, buffer or thread count plays a part.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from parti_tf.data.examples import count_records, find_shards, parse_example, read_examples, verify_shard
from parti_tf.data.image_processing import decode_image, fit_image

# A crop takes an image, uint8 [height, width, 3], the size and a seed, int [2]; it gives uint8 [size, size, 3].
Crop = Callable[[tf.Tensor, int, tf.Tensor], tf.Tensor]

_SHARDS, _WINDOWS, _CROPS = range(3)  # streams of draws that must not repeat one another
_CHECKED_BYTES = 2**30  # splits up to this size have every checksum read before training, larger ones only lengths


def image_text_dataset(
    folder: str | os.PathLike,
    split: str,
    *,
    batch_size: int,
    image_size: int | None = None,
    text_tokenizer: Callable[[tf.Tensor], tf.Tensor] | None = None,
    image_tokens: bool = False,
    crop: Crop | None = None,
    shuffle: bool = True,
    repeat: bool = True,
    drop_remainder: bool = True,
    seed: int = 0,
    start_step: int = 0,
    shuffle_window: int = 16_384,
    num_workers: int = 1,
    worker_index: int = 0,
) -> tf.data.Dataset:
    """Gives batches of a split as dicts, with the parts that are asked for.

    `images`, float32 [batch, image_size, image_size, 3] in [0, 1], where `image_size` is given;
    `text_ids`, int32 [batch, max_length], where a `text_tokenizer` is given;
    `image_tokens`, int32 [batch, length], where `image_tokens` is set.
    Every caption stays: dropping some for guidance is the training's part.

    Args:
      folder: folder of the shards.
      split: name of the split.
      batch_size: examples a step, of all workers together.
      image_size: pixels along one side of the images; None gives no images.
      text_tokenizer: turns string [batch] into text ids, as `TextTokenizer` does; None gives no text ids.
      image_tokens: whether to give the records' image tokens.
      crop: `crop_for_image_tokenizer`, `crop_for_transformer` or the like; None gives the middle square.
      shuffle: whether each epoch has an order of its own; otherwise all have the order of the shards.
      repeat: whether to go on without end; batches then run on across the ends of epochs.
      drop_remainder: whether to leave out a last, smaller batch.
      seed: decides the order and the crops.
      start_step: steps that are left out at the start.
      shuffle_window: records that are shuffled together and held in memory.
      num_workers: machines that share each step's examples.
      worker_index: which of them this is; it gets every `num_workers`-th example.

    Raises:
      FileNotFoundError: the split or one of its shards is missing.
      ValueError: a shard is truncated or corrupt, the split is empty, nothing is asked for, the records
        hold no image tokens, or a number is out of range.
    """
    _check_numbers(batch_size, image_size, start_step, shuffle_window, num_workers, worker_index)
    if image_size is None and text_tokenizer is None and not image_tokens:
        raise ValueError("nothing to give: ask for image_size, text_tokenizer or image_tokens")
    paths = find_shards(folder, split)
    counts = _count(paths)
    if sum(counts) == 0:
        raise ValueError(f"{folder} has an empty split {split!r}")
    num_tokens = _image_token_length(paths) if image_tokens else 0
    first = start_step * batch_size
    records = _read_stream(paths, counts, first, seed, shuffle_window if shuffle else None, repeat)
    records = records.enumerate(first).shard(num_workers, worker_index)

    def decode(position: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        example, parts = parse_example(record), {}
        if image_size is not None:
            image = decode_image(example["image"])
            crop_seed = _fold_seed(seed, _CROPS, position)
            parts["images"] = crop(image, image_size, crop_seed) if crop else fit_image(image, image_size)
        if text_tokenizer is not None:
            parts["text_ids"] = example["caption"]
        if image_tokens:
            parts["image_tokens"] = tf.ensure_shape(example["image_tokens"], [num_tokens])
        return parts

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if image_size is not None:
            batch["images"] = tf.cast(batch["images"], tf.float32) / 255.0
        if text_tokenizer is not None:
            batch["text_ids"] = text_tokenizer(batch["text_ids"])
        return batch

    batches = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = batches.batch(batch_size // num_workers, drop_remainder=drop_remainder)
    batches = batches.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.with_options(_options()).prefetch(tf.data.AUTOTUNE)


def _check_numbers(
    batch_size: int, image_size: int | None, start_step: int, shuffle_window: int, num_workers: int, worker_index: int
) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("image_size", 1 if image_size is None else image_size, 1),
        ("start_step", start_step, 0),
        ("shuffle_window", shuffle_window, 1),
        ("num_workers", num_workers, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    if not 0 <= worker_index < num_workers:
        raise ValueError(f"worker_index is {worker_index}; it must be in [0, num_workers {num_workers})")
    if batch_size % num_workers:
        raise ValueError(f"batch_size {batch_size} does not divide by num_workers {num_workers}")


def _count(paths: list[Path]) -> list[int]:
    small = sum(path.stat().st_size for path in paths) <= _CHECKED_BYTES
    return [verify_shard(path) if small else count_records(path) for path in paths]


def _image_token_length(paths: list[Path]) -> int:
    example = next(read_examples(paths))
    if not example.image_tokens:
        raise ValueError(f"{paths[0]} holds no image tokens; write them with an image tokenizer first")
    return len(example.image_tokens)


def _read_stream(
    paths: list[Path], counts: list[int], first: int, seed: int, window: int | None, repeat: bool
) -> tf.data.Dataset:
    """Gives records of all epochs from position `first` of the stream on."""
    names, sizes = [os.fspath(path) for path in paths], np.array(counts, np.int64)
    first_epoch, skipped = divmod(first, int(sizes.sum()))

    def read_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        skip = tf.where(epoch == first_epoch, tf.constant(skipped, tf.int64), 0)
        if window is None:
            return _read_shards(tf.constant(names), tf.constant(sizes), skip)
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(names)), _fold_seed(seed, _SHARDS, epoch), alg="philox"
        )
        whole_windows = skip // window
        records = _read_shards(tf.gather(names, order), tf.gather(sizes, order), whole_windows * window)

        def shuffle_window(index: tf.Tensor, members: tf.Tensor) -> tf.Tensor:
            key = _fold_seed(seed, _WINDOWS, epoch)
            key = tf.random.fold_in(key, whole_windows + index, alg="philox")
            return tf.random.experimental.stateless_shuffle(members, key, alg="philox")

        records = records.batch(window).enumerate().map(shuffle_window).unbatch()
        return records.skip(skip - whole_windows * window)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max if repeat else 1)
    return epochs.flat_map(read_epoch)


def _read_shards(names: tf.Tensor, sizes: tf.Tensor, skip: tf.Tensor) -> tf.data.Dataset:
    """Gives the records of shards one after another, without opening those that are skipped whole."""
    ends = tf.cumsum(sizes)
    begin = tf.searchsorted(ends, [skip], side="right")[0]
    inside = skip - tf.where(begin > 0, ends[tf.maximum(begin, 1) - 1], 0)
    return tf.data.Dataset.from_tensor_slices(names[begin:]).flat_map(tf.data.TFRecordDataset).skip(inside)


def _fold_seed(seed: int, stream: int, index: tf.Tensor) -> tf.Tensor:
    return tf.random.fold_in(tf.constant([seed, stream], tf.int64), index, alg="philox")


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
