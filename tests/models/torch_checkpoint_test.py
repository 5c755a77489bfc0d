import pickle
import struct
import zipfile

import numpy as np
import pytest

from parti_tf.models.torch_checkpoint import read_torch_checkpoint

# PyTorch is not installed here, so these write the pickle opcodes that its `torch.save` does.


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _integers(*values: int) -> bytes:
    return _tuple(*(b"J" + struct.pack("<i", value) for value in values))


def _tensor(key: str, array: np.ndarray, kind: str = "FloatStorage", shape=None, strides=None, offset=0) -> bytes:
    shape = array.shape if shape is None else shape
    strides = [stride // array.itemsize for stride in array.strides] if strides is None else strides
    size = b"J" + struct.pack("<i", array.size)
    storage = _tuple(_text("storage"), b"ctorch\n" + kind.encode() + b"\n", _text(key), _text("cpu"), size) + b"Q"
    hooks = b"ccollections\nOrderedDict\n)R"
    start = b"J" + struct.pack("<i", offset)
    arguments = _tuple(storage, start, _integers(*shape), _integers(*strides), b"\x89", hooks)
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"


def _state_dict(tensors: dict[str, bytes]) -> bytes:
    pairs = b"".join(_text(name) + tensor for name, tensor in tensors.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + pairs + b"u."


def _write_zip(path, description: bytes, storages: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", description)
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)


def _write_legacy(path, description: bytes, storages: dict[str, np.ndarray]) -> None:
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    raw = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())
    path.write_bytes(b"".join(head) + description + pickle.dumps(list(storages), 2) + raw)


MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3) / 7
COUNT = np.array([12345678901], np.int64)
DESCRIPTION = _state_dict(
    {
        "matrix": _tensor("0", MATRIX),
        "second_column": _tensor("0", MATRIX, shape=(2,), strides=(3,), offset=1),
        "count": _tensor("1", COUNT, "LongStorage", shape=(), strides=()),
    }
)


def test_both_formats_give_every_tensor_with_its_shape(tmp_path):
    _write_zip(tmp_path / "zip.pth", DESCRIPTION, {"0": MATRIX.tobytes(), "1": COUNT.tobytes()})
    _write_legacy(tmp_path / "legacy.pth", DESCRIPTION, {"0": MATRIX, "1": COUNT})
    for name in ("zip.pth", "legacy.pth"):
        tensors = read_torch_checkpoint(tmp_path / name)
        assert list(tensors) == ["matrix", "second_column", "count"]
        np.testing.assert_array_equal(tensors["matrix"], MATRIX)
        np.testing.assert_array_equal(tensors["second_column"], MATRIX[:, 1])  # two tensors over one storage
        assert tensors["count"].shape == ()
        assert tensors["count"] == 12345678901


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    traces = tmp_path / "traces"
    attack = b"\x80\x02cos\nsystem\n" + _tuple(_text(f"touch {traces}")) + b"R."
    _write_zip(tmp_path / "attack.pth", attack, {})
    with pytest.raises(ValueError, match=r"asks for os\.system"):
        read_torch_checkpoint(tmp_path / "attack.pth")
    assert not traces.exists()


def test_a_tensor_may_not_reach_outside_its_storage(tmp_path):
    description = _state_dict({"matrix": _tensor("0", MATRIX, shape=(3, 3), strides=(3, 1))})
    _write_zip(tmp_path / "far.pth", description, {"0": MATRIX.tobytes()})
    with pytest.raises(ValueError, match=r"\(3, 3\) reaches outside its storage"):
        read_torch_checkpoint(tmp_path / "far.pth")


@pytest.mark.parametrize("kept", [0, 40, 200, -4])
def test_a_truncated_file_is_refused(tmp_path, kept):
    _write_legacy(tmp_path / "cut.pth", DESCRIPTION, {"0": MATRIX, "1": COUNT})
    whole = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:kept])
    with pytest.raises(ValueError, match=r"cut\.pth is no readable PyTorch state dict"):
        read_torch_checkpoint(tmp_path / "cut.pth")


def test_what_is_no_state_dict_is_refused(tmp_path):
    _write_zip(tmp_path / "list.pth", pickle.dumps([1, 2], 2), {})
    with pytest.raises(ValueError, match="something other than tensors"):
        read_torch_checkpoint(tmp_path / "list.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    with pytest.raises(ValueError, match=r"no data\.pkl"):
        read_torch_checkpoint(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        read_torch_checkpoint(tmp_path / "nothing.pth")
