import functools
import io
import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from parti_tf.data.examples import ImageTextExample, find_shards, write_shards
from parti_tf.data.image_processing import crop_for_image_tokenizer
from parti_tf.data.input_pipeline import image_text_dataset

COUNT = 23  # examples; a prime, so that no batch size or window divides it
SIZE = 8


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _example(index):
    """An example whose every part tells its index."""
    image = np.full((SIZE, SIZE, 3), index, np.uint8)
    image[:, SIZE // 2 :] = 255
    return ImageTextExample(f"id{index}", f"caption {index}", _png(image), (index, 2 * index, 7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    write_shards(path, "train", map(_example, range(COUNT)), num_shards=3)
    write_shards(path, "bare", [ImageTextExample("id", "no tokens", _example(0).image)])
    return path


def _tokenize(captions):
    """A stand-in for text ids that is plain to read: the number in the caption, and 1."""
    numbers = tf.strings.to_number(tf.strings.regex_replace(captions, "caption ", ""), tf.int32)
    return tf.stack([numbers, tf.ones_like(numbers)], axis=1)


_make = functools.partial(image_text_dataset, split="train", batch_size=4, text_tokenizer=_tokenize)


def _order(dataset, steps=None):
    """The indices of the examples that the first `steps` batches hold."""
    return np.concatenate([batch["text_ids"][:, 0] for batch in itertools.islice(dataset, steps)]).tolist()


def test_batches_hold_what_was_asked_for(folder):
    batch = next(iter(_make(folder, image_size=SIZE, image_tokens=True)))
    assert {name: (part.shape, part.dtype) for name, part in batch.items()} == {
        "images": ((4, SIZE, SIZE, 3), tf.float32),
        "text_ids": ((4, 2), tf.int32),
        "image_tokens": ((4, 3), tf.int32),
    }
    for image, ids, tokens in zip(batch["images"], batch["text_ids"], batch["image_tokens"], strict=True):
        index = int(ids[0])
        np.testing.assert_allclose(image[:, : SIZE // 2], index / 255, rtol=1e-6)
        np.testing.assert_allclose(image[:, SIZE // 2 :], 1.0)
        assert tokens.numpy().tolist() == [index, 2 * index, 7]
    assert set(next(iter(image_text_dataset(folder, "train", batch_size=2, image_size=SIZE)))) == {"images"}
    assert set(next(iter(image_text_dataset(folder, "train", batch_size=2, image_tokens=True)))) == {"image_tokens"}


def test_images_are_brought_to_the_asked_size(folder):
    assert next(iter(_make(folder, image_size=4)))["images"].shape == (4, 4, 4, 3)
    assert next(iter(_make(folder, image_size=12)))["images"].shape == (4, 12, 12, 3)


def test_every_epoch_has_every_example_once_in_an_order_of_its_own(folder):
    order = _order(_make(folder), COUNT)  # COUNT batches of 4 are 4 epochs, whose ends lie inside batches
    epochs = [order[start : start + COUNT] for start in range(0, 4 * COUNT, COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert list(range(COUNT)) not in epochs


def test_order_follows_from_the_seed_alone(folder):
    tf.random.set_seed(1)
    first = _order(_make(folder, seed=5), 12)
    tf.random.set_seed(2)
    assert _order(_make(folder, seed=5), 12) == first
    assert _order(_make(folder, seed=6), 12) != first


def test_without_shuffle_shards_come_in_order(folder):
    by_shard = [index for shard in range(3) for index in range(shard, COUNT, 3)]
    assert _order(_make(folder, shuffle=False, repeat=False, drop_remainder=False)) == by_shard
    assert _order(_make(folder, shuffle=False), 10) == (by_shard * 2)[:40]


@pytest.mark.parametrize("options", [{}, {"shuffle_window": 5}, {"shuffle": False}])
def test_a_run_that_starts_later_goes_on_where_it_would_have_been(folder, options):
    whole = _order(_make(folder, **options), 20)
    for step in (3, 6, 17):  # in the first epoch, across its end, in the third
        assert _order(_make(folder, start_step=step, **options), 20 - step) == whole[4 * step :], step


def test_window_limits_how_far_records_move(folder):
    assert _order(_make(folder, shuffle_window=1), 5) != _order(_make(folder, shuffle_window=COUNT), 5)
    shard_of = [index % 3 for index in _order(_make(folder, shuffle_window=1, repeat=False, drop_remainder=False))]
    assert len(list(itertools.groupby(shard_of))) == 3  # a window of one leaves the records of each shard together


def test_finite_split_keeps_or_drops_its_last_batch(folder):
    sizes = [len(batch["text_ids"]) for batch in _make(folder, repeat=False, drop_remainder=False)]
    assert sizes == [4, 4, 4, 4, 4, 3]
    assert len(list(_make(folder, repeat=False))) == 5
    assert _make(folder, repeat=False).element_spec["text_ids"].shape == (4, 2)
    assert len(list(_make(folder, repeat=False, start_step=4))) == 1


def test_workers_share_the_steps_of_one(folder):
    whole = [set(batch["text_ids"][:, 0].numpy()) for batch in itertools.islice(_make(folder), 12)]
    parts = [
        [set(batch["text_ids"][:, 0].numpy()) for batch in itertools.islice(worker, 9)]
        for worker in (_make(folder, num_workers=2, worker_index=index, start_step=3) for index in range(2))
    ]
    for step, (first, second) in enumerate(zip(*parts, strict=True), start=3):
        assert len(first) == len(second) == 2
        assert first | second == whole[step]


def test_crops_are_random_yet_follow_from_seed_and_step(folder):
    crop = functools.partial(_make, folder, image_size=SIZE, crop=crop_for_image_tokenizer, shuffle=False)
    steps = [batch["images"].numpy() for batch in itertools.islice(crop(), 12)]
    mirrored = np.array([images[:, 0, 0, 0] == 1.0 for images in steps])  # the white half is left
    assert 12 < mirrored.sum() < 36
    np.testing.assert_array_equal(next(iter(crop(start_step=7)))["images"], steps[7])
    other = np.array([b["images"].numpy()[:, 0, 0, 0] == 1.0 for b in itertools.islice(crop(seed=1), 12)])
    assert (other != mirrored).any()


def test_missing_parts_are_named(folder):
    with pytest.raises(FileNotFoundError, match="no split 'valid'; it has bare, train"):
        image_text_dataset(folder, "valid", batch_size=1, image_size=SIZE)
    with pytest.raises(ValueError, match="bare-00000-of-00001.tfrecord holds no image tokens"):
        image_text_dataset(folder, "bare", batch_size=1, image_tokens=True)
    with pytest.raises(ValueError, match="nothing to give: ask for image_size, text_tokenizer or image_tokens"):
        image_text_dataset(folder, "train", batch_size=1)


def test_empty_and_truncated_splits_are_named(tmp_path):
    write_shards(tmp_path, "empty", [])
    with pytest.raises(ValueError, match="has an empty split 'empty'"):
        image_text_dataset(tmp_path, "empty", batch_size=1, image_size=SIZE)
    write_shards(tmp_path, "train", map(_example, range(4)), num_shards=2)
    path = find_shards(tmp_path, "train")[1]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="train-00001-of-00002.tfrecord is truncated or corrupt"):
        image_text_dataset(tmp_path, "train", batch_size=1, image_size=SIZE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"start_step": -1}, "start_step is -1; it must be at least 0"),
        ({"shuffle_window": 0}, "shuffle_window is 0; it must be at least 1"),
        ({"num_workers": 0}, "num_workers is 0; it must be at least 1"),
        ({"num_workers": 2, "worker_index": 2}, r"worker_index is 2; it must be in \[0, num_workers 2\)"),
        ({"num_workers": 3}, "batch_size 4 does not divide by num_workers 3"),
        ({"image_size": 0}, "image_size is 0; it must be at least 1"),
    ],
)
def test_bad_numbers_are_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        _make(folder, **options)
