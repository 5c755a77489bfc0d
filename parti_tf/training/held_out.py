"""The examples that a run does not learn from but is looked at with."""

import os
from collections.abc import Callable

import tensorflow as tf

from parti_tf.data.examples import count_examples, find_splits


def find_held_out_splits(folder: str | os.PathLike, train_split: str) -> list[str]:
    """Gives the names of all splits of a folder but the one to train on.

    Raises:
      FileNotFoundError: there is no such folder or train split, or nothing is held out.
    """
    count_examples(folder, train_split)
    splits = [split for split in find_splits(folder) if split != train_split]
    if not splits:
        raise FileNotFoundError(f"{folder} holds no split but {train_split!r}; validation needs one that is held out")
    return splits


def held_out_dataset(
    folder: str | os.PathLike,
    splits: list[str],
    read_split: Callable[[str], tf.data.Dataset],
    batch_size: int,
    most: int,
) -> tf.data.Dataset:
    """Gives batches of held-out examples, the same ones every time, kept in memory.

    All batches are full, so that one shape is compiled: what is left over is left out, unless it is all there is.

    Args:
      folder: of the records.
      splits: their names; each gives of its own in proportion to its size.
      read_split: gives the batches of a split, in a fixed order.
      batch_size: examples a batch.
      most: examples in all, at most.
    """
    counts = [count_examples(folder, split) for split in splits]
    share = min(1.0, most / sum(counts))
    takes = [max(1, int(count * share)) for count in counts]
    parts = [read_split(split).unbatch().take(take) for split, take in zip(splits, takes, strict=True)]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined.concatenate(part)
    joined = joined.batch(batch_size, drop_remainder=sum(takes) >= batch_size).cache()
    return joined.apply(tf.data.experimental.assert_cardinality(max(1, sum(takes) // batch_size)))
