"""The one TFRecord schema of image-text pairs, and the shards it is kept in.

A split is a complete set of files `SPLIT-SSSSS-of-NNNNN.tfrecord` in one folder. Every producer writes
through `write_shards` and every consumer finds files through `find_shards`.
"""

import dataclasses
import json
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import tensorflow as tf

_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.tfrecord")
_UNFINISHED = ".unfinished"

_FEATURES = {
    "id": tf.io.FixedLenFeature([], tf.string),
    "caption": tf.io.FixedLenFeature([], tf.string),
    "image": tf.io.FixedLenFeature([], tf.string, default_value=b""),
    "image_tokens": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
    "attributes": tf.io.FixedLenFeature([], tf.string, default_value=b"{}"),
}


@dataclasses.dataclass(frozen=True)
class ImageTextExample:
    """One image with its caption.

    Attributes:
      id: names the example; unique within a dataset.
      caption: plain text.
      image: an encoded image file, PNG or JPEG; empty where only tokens are kept.
      image_tokens: codebook indices in raster order; empty until an image tokenizer wrote them.
      attributes: what else is known of the example, by name.
    """

    id: str
    caption: str
    image: bytes = b""
    image_tokens: tuple[int, ...] = ()
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def serialize_example(example: ImageTextExample) -> bytes:
    """Gives the record of an example, a serialized `tf.train.Example`."""
    attributes = json.dumps(dict(example.attributes), ensure_ascii=False, sort_keys=True)
    features = {
        "id": _bytes_feature(example.id.encode()),
        "caption": _bytes_feature(example.caption.encode()),
        "image": _bytes_feature(example.image),
        "image_tokens": tf.train.Feature(int64_list=tf.train.Int64List(value=example.image_tokens)),
        "attributes": _bytes_feature(attributes.encode()),
    }
    record = tf.train.Example(features=tf.train.Features(feature=features))
    return record.SerializeToString(deterministic=True)


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def parse_example(record: tf.Tensor) -> dict[str, tf.Tensor]:
    """Gives the fields of one record as tensors, for use inside tf.data.

    Args:
      record: string [].

    Returns:
      `id`, `caption`, `image` and `attributes` (JSON), each string []; `image_tokens`, int32 [length], of
      length 0 where the record has none.
    """
    fields = tf.io.parse_single_example(record, _FEATURES)
    fields["image_tokens"] = tf.cast(fields["image_tokens"], tf.int32)
    return fields


def deserialize_example(record: bytes) -> ImageTextExample:
    """Gives the example that `serialize_example` wrote, in plain Python.

    Raises:
      ValueError: the bytes are no such record.
    """
    try:
        fields = tf.train.Example.FromString(record).features.feature
        text = {name: fields[name].bytes_list.value[0] for name in ("id", "caption", "image", "attributes")}
        attributes = json.loads(text["attributes"])
    except Exception as error:  # protobuf's own DecodeError lives in a package we do not depend on
        raise ValueError(f"record of {len(record)} bytes is no image-text example: {error}") from None
    tokens = tuple(fields["image_tokens"].int64_list.value)
    return ImageTextExample(text["id"].decode(), text["caption"].decode(), text["image"], tokens, attributes)


def read_examples(paths: Iterable[str | os.PathLike]) -> Iterator[ImageTextExample]:
    """Yields every example of the given shards, in their order.

    Raises:
      FileNotFoundError: there is no such shard.
      ValueError: a shard is truncated or corrupt; the message names it.
    """
    for path in paths:
        count_records(path)  # TensorFlow takes a shard that ends inside a length field for one that ends before it
        try:
            for record in tf.data.TFRecordDataset(os.fspath(path)).as_numpy_iterator():
                yield deserialize_example(record)
        except tf.errors.DataLossError as error:
            raise ValueError(f"{path} is truncated or corrupt: {error.message}") from None


def shard_path(folder: str | os.PathLike, split: str, index: int, count: int) -> Path:
    """Gives the name of shard `index` of `count` of a split."""
    return Path(folder) / f"{split}-{index:05d}-of-{count:05d}.tfrecord"


def write_shards(
    folder: str | os.PathLike, split: str, examples: Iterable[ImageTextExample], num_shards: int = 1
) -> list[Path]:
    """Writes a split, dealing its examples out to the shards in turn, and gives their paths.

    Shards take their final names only when all of them are complete; earlier shards of the same split
    then go. An interruption leaves the earlier ones as they were.

    Raises:
      ValueError: `num_shards` is below 1.
    """
    if num_shards < 1:
        raise ValueError(f"num_shards is {num_shards}; it must be at least 1")
    Path(folder).mkdir(parents=True, exist_ok=True)
    finals = [shard_path(folder, split, index, num_shards) for index in range(num_shards)]
    unfinished = [path.with_name(path.name + _UNFINISHED) for path in finals]
    try:
        _write_records(unfinished, examples)
        for source, target in zip(unfinished, finals, strict=True):
            os.replace(source, target)
    finally:
        for path in unfinished:
            path.unlink(missing_ok=True)
    for path in set(_shards_by_split(folder).get(split, [])) - set(finals):
        path.unlink()
    return finals


def _write_records(paths: list[Path], examples: Iterable[ImageTextExample]) -> None:
    writers = [tf.io.TFRecordWriter(os.fspath(path)) for path in paths]
    try:
        for position, example in enumerate(examples):
            writers[position % len(writers)].write(serialize_example(example))
    finally:
        for writer in writers:
            writer.close()


def find_shards(folder: str | os.PathLike, split: str) -> list[Path]:
    """Gives the shards of a split in order, once it is sure that the set is complete.

    Raises:
      FileNotFoundError: the folder, the split or one of its shards is missing; the message names what is
        missing and what there is.
      ValueError: the folder holds two sets of the split with different shard counts.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no data folder {folder}")
    splits = _shards_by_split(folder)
    if split not in splits:
        raise FileNotFoundError(f"{folder} holds no split {split!r}; it has {', '.join(sorted(splits)) or 'none'}")
    counts = sorted({int(_match(path)["count"]) for path in splits[split]})
    if len(counts) > 1:
        raise ValueError(f"{folder} holds split {split!r} in sets of {counts} shards; delete all but one set")
    expected = [shard_path(folder, split, index, counts[0]) for index in range(counts[0])]
    missing = [path.name for path in expected if path not in splits[split]]
    if missing:
        raise FileNotFoundError(f"{folder} is missing {', '.join(missing)}")
    return expected


def find_splits(folder: str | os.PathLike) -> list[str]:
    """Gives the names of the splits that a folder holds, sorted."""
    return sorted(_shards_by_split(folder))


def _match(path: Path) -> re.Match:
    match = _SHARD_NAME.fullmatch(path.name)
    assert match is not None
    return match


def _shards_by_split(folder: str | os.PathLike) -> dict[str, list[Path]]:
    splits: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).iterdir()):
        match = _SHARD_NAME.fullmatch(path.name)
        if match:
            splits.setdefault(match["split"], []).append(path)
    return splits


def count_records(path: str | os.PathLike) -> int:
    """Gives how many records a shard holds, walking record lengths without reading the records.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the last record is cut off, or the file is no TFRecord file.

    Source: the framing in tensorflow/core/lib/io/record_writer.h: uint64 length, uint32 checksum, data,
    uint32 checksum.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    size, position, count = os.path.getsize(path), 0, 0
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            position += 12 + length + 4
            if position > size:
                raise ValueError(f"{path} is truncated or corrupt: record {count} ends beyond its {size} bytes")
            count += 1
    return count


def verify_shard(path: str | os.PathLike) -> int:
    """Gives how many records a shard holds, once every checksum in it was checked.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is truncated or corrupt; the message names it.
    """
    count = count_records(path)
    try:
        for _ in tf.data.TFRecordDataset(os.fspath(path)).batch(256):
            pass
    except tf.errors.DataLossError as error:
        raise ValueError(f"{path} is truncated or corrupt: {error.message}") from None
    return count


def count_examples(folder: str | os.PathLike, split: str) -> int:
    """Gives how many examples a split holds.

    Raises:
      FileNotFoundError: the split or one of its shards is missing.
      ValueError: a shard is truncated.
    """
    return sum(count_records(path) for path in find_shards(folder, split))
