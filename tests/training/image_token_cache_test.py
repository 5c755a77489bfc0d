import dataclasses
from pathlib import Path

import numpy as np
import pytest

from parti_tf.data.examples import find_shards, read_examples, write_shards
from parti_tf.preset_files import write_weights
from parti_tf.training.image_token_cache import write_image_tokens
from tests.tiny import tiny_image_tokenizer
from tests.training import tiny_run


@pytest.fixture
def data(tmp_path) -> Path:
    return tiny_run.write_dataset(tmp_path / "data")


def write(data: Path, out: Path, seed: int = 0, splits: tuple[str, ...] = ("train", "unseen")) -> Path:
    tokenizer = tiny_image_tokenizer(seed)
    weights = data.parent / f"{seed}.safetensors"
    write_weights(weights, tokenizer)
    return write_image_tokens(tokenizer, weights, str(data), list(splits), out, batch_size=8)


def test_every_example_gets_the_tokens_of_its_own_image(data, tmp_path):
    folder = write(data, tmp_path)
    tokenizer = tiny_image_tokenizer()
    for split in ("train", "unseen"):
        sources = list(read_examples(find_shards(data, split)))
        written = {example.id: example for example in read_examples(find_shards(folder, split))}
        assert len(written) == len(sources)
        for source in sources:
            pixels = tiny_run.draw_image(int(source.id))[None].astype(np.float32) / 255.0
            tokens = tuple(np.array(tokenizer.tokenize(pixels))[0].tolist())
            assert written[source.id] == dataclasses.replace(source, image=b"", image_tokens=tokens)


def test_tokens_that_are_there_are_kept_and_missing_splits_are_added(data, tmp_path):
    folder = write(data, tmp_path, splits=("unseen", "unseen_too"))
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    find_shards(folder, "unseen")[0].unlink()
    assert write(data, tmp_path, splits=("unseen", "unseen_too")) == folder
    again = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(again) == set(times)
    assert [path.name for path in times if again[path] != times[path]] == ["unseen-00000-of-00001.tfrecord"]


def test_another_tokenizer_or_other_images_go_to_another_folder(data, tmp_path):
    folders = [write(data, tmp_path, seed, ("unseen",)) for seed in (0, 1)]
    write_shards(data, "unseen", list(read_examples(find_shards(data, "unseen")))[1:])
    folders.append(write(data, tmp_path, 0, ("unseen",)))
    assert len(set(folders)) == 3
