import pytest
import tensorflow as tf

from parti_tf.data.examples import (
    ImageTextExample,
    count_examples,
    count_records,
    deserialize_example,
    find_shards,
    find_splits,
    parse_example,
    read_examples,
    serialize_example,
    shard_path,
    verify_shard,
    write_shards,
)

HEART = ImageTextExample("a:1", "red heart, naïve ❤", b"\x89PNG...", (3, 0, 8191), {"style": "noto", "label": "ë"})


def _numbered(count):
    return [ImageTextExample(f"id{i}", f"caption {i}", b"x" * (100 + i)) for i in range(count)]


def test_record_round_trip_in_python():
    assert deserialize_example(serialize_example(HEART)) == HEART


def test_record_round_trip_in_a_graph():
    fields = tf.function(parse_example)(tf.constant(serialize_example(HEART)))
    assert fields["caption"].numpy().decode() == HEART.caption
    assert fields["image"].numpy() == HEART.image
    assert fields["image_tokens"].dtype == tf.int32
    assert fields["image_tokens"].numpy().tolist() == [3, 0, 8191]


def test_record_without_tokens_parses_to_none():
    fields = parse_example(tf.constant(serialize_example(ImageTextExample("a", "b"))))
    assert fields["image_tokens"].shape == (0,)
    assert fields["image"].numpy() == b""


def test_foreign_record_is_refused():
    with pytest.raises(ValueError, match="record of 7 bytes is no image-text example"):
        deserialize_example(b"nothing")


def test_shards_deal_examples_out_in_turn(tmp_path):
    paths = write_shards(tmp_path, "train", _numbered(7), num_shards=3)
    assert [path.name for path in paths] == [f"train-0000{i}-of-00003.tfrecord" for i in range(3)]
    assert [[one.id for one in read_examples([path])] for path in paths] == [
        ["id0", "id3", "id6"],
        ["id1", "id4"],
        ["id2", "id5"],
    ]
    assert find_shards(tmp_path, "train") == paths
    assert count_examples(tmp_path, "train") == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths]


def test_writing_a_split_again_replaces_all_of_it(tmp_path):
    write_shards(tmp_path, "train", _numbered(4), num_shards=4)
    write_shards(tmp_path, "other", _numbered(1))
    write_shards(tmp_path, "train", _numbered(5), num_shards=2)
    assert len(find_shards(tmp_path, "train")) == 2
    assert find_splits(tmp_path) == ["other", "train"]


def test_failure_while_writing_keeps_the_earlier_split(tmp_path):
    def fail_midway():
        yield from _numbered(2)
        raise RuntimeError("power cut")

    write_shards(tmp_path, "train", _numbered(6), num_shards=2)
    with pytest.raises(RuntimeError, match="power cut"):
        write_shards(tmp_path, "train", fail_midway(), num_shards=2)
    assert count_examples(tmp_path, "train") == 6
    assert len(list(tmp_path.iterdir())) == 2


def test_no_shards_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_shards is 0; it must be at least 1"):
        write_shards(tmp_path, "train", [], num_shards=0)


def test_missing_folder_split_and_shard_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no data folder {tmp_path}/nowhere"):
        find_shards(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match="no split 'train'; it has none"):
        find_shards(tmp_path, "train")
    write_shards(tmp_path, "attr", _numbered(1))
    write_shards(tmp_path, "train", _numbered(3), num_shards=3)
    with pytest.raises(FileNotFoundError, match="no split 'valid'; it has attr, train"):
        find_shards(tmp_path, "valid")
    shard_path(tmp_path, "train", 1, 3).unlink()
    with pytest.raises(FileNotFoundError, match="is missing train-00001-of-00003.tfrecord"):
        find_shards(tmp_path, "train")


def test_two_sets_of_one_split_are_refused(tmp_path):
    first = write_shards(tmp_path, "train", _numbered(3), num_shards=3)[0].read_bytes()
    write_shards(tmp_path, "train", _numbered(3), num_shards=2)
    shard_path(tmp_path, "train", 0, 3).write_bytes(first)
    with pytest.raises(ValueError, match=r"'train' in sets of \[2, 3\] shards"):
        find_shards(tmp_path, "train")


@pytest.mark.parametrize("cut", [1, 60, 5])  # in the last checksum, in the data, and down to half a length field
def test_truncated_shard_is_named(tmp_path, cut):
    (path,) = write_shards(tmp_path, "train", _numbered(3))
    whole = path.read_bytes()
    path.write_bytes(whole[:5] if cut == 5 else whole[:-cut])
    for check in (count_records, verify_shard, lambda path: list(read_examples([path]))):
        with pytest.raises(ValueError, match=f"{path.name} is truncated or corrupt"):
            check(path)


def test_corrupt_shard_is_named_by_its_checksum(tmp_path):
    (path,) = write_shards(tmp_path, "train", _numbered(3))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert count_records(path) == 3  # lengths alone do not tell
    for check in (verify_shard, lambda path: list(read_examples([path]))):
        with pytest.raises(ValueError, match=f"{path.name} is truncated or corrupt"):
            check(path)


def test_file_that_is_no_shard_is_named(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a record file at all")
    with pytest.raises(ValueError, match="notes.txt is truncated or corrupt"):
        verify_shard(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        verify_shard(tmp_path / "none")
