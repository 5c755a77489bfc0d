import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from parti_tf.data.examples import ImageTextExample, write_shards
from parti_tf.training.held_out import find_held_out_splits, held_out_dataset


def write_split(folder, split: str, count: int) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(file, "PNG")
    write_shards(folder, split, [ImageTextExample(f"{split}{n}", split, file.getvalue()) for n in range(count)])


def read(folder, counts: dict[str, int], batch_size: int, most: int) -> list[list[str]]:
    for split, count in counts.items():
        write_split(folder, split, count)

    def read_split(split: str) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices([f"{split}{n}" for n in range(counts[split])]).batch(4)

    dataset = held_out_dataset(folder, list(counts), read_split, batch_size, most)
    batches = [[name.decode() for name in batch] for batch in dataset.as_numpy_iterator()]
    assert len(batches) == int(dataset.cardinality())
    assert batches == [[name.decode() for name in batch] for batch in dataset.as_numpy_iterator()]
    return batches


def test_every_split_but_the_train_split_is_held_out(tmp_path):
    for split in ("train", "b", "a"):
        write_split(tmp_path, split, 1)
    assert find_held_out_splits(tmp_path, "train") == ["a", "b"]
    assert find_held_out_splits(tmp_path, "a") == ["b", "train"]


def test_a_dataset_without_the_split_or_with_nothing_held_out_is_refused(tmp_path):
    write_split(tmp_path, "train", 1)
    with pytest.raises(FileNotFoundError, match=r"holds no split but 'train'; validation needs one that is held out"):
        find_held_out_splits(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match=r"holds no split 'trian'; it has train"):
        find_held_out_splits(tmp_path, "trian")


def test_all_splits_are_joined_to_full_batches(tmp_path):
    assert read(tmp_path, {"a": 3, "b": 4}, batch_size=3, most=100) == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]


def test_every_split_gives_its_share_of_the_most(tmp_path):
    batches = read(tmp_path, {"a": 30, "b": 10, "c": 1}, batch_size=1, most=20)
    names = [name[0] for batch in batches for name in batch]
    assert [names.count(name) for name in "abc"] == [14, 4, 1]  # 20 of 41, rounded down, and one at least


def test_fewer_examples_than_a_batch_are_all_used(tmp_path):
    assert read(tmp_path, {"a": 2, "b": 1}, batch_size=8, most=100) == [["a0", "a1", "b0"]]
