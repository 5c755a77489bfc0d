"""Reads the tensors of a PyTorch checkpoint into NumPy arrays, without PyTorch.

Both of its formats are pickles of tensor descriptions beside raw storages: the older one is a chain of
pickles followed by the storages, the newer one a zip archive with one entry for each. A pickle can call
any function; the unpickler here knows the five names that a state dict needs and refuses every other.
"""

import collections
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, struct.error, zipfile.BadZipFile),
    *(AttributeError, IndexError, KeyError, TypeError, ValueError),  # what garbage in a pickle comes to
)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGE_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def read_torch_checkpoint(path: str | Path) -> dict[str, np.ndarray]:
    """Gives every tensor of the state dict in a PyTorch `.pth` file.

    Args:
      path: a file that `torch.save` wrote from a state dict of float32 and int64 tensors.

    Returns:
      Tensor name -> array, float32 or int64, as the file orders them.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is cut short, is no PyTorch state dict, or asks for anything but tensors.

    Source: PyTorch's `torch/serialization.py`, for the layout of both formats.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no PyTorch checkpoint at {path}")
    try:
        state = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except _UNREADABLE as error:
        raise ValueError(f"{path} is no readable PyTorch state dict: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(value, _Tensor) for value in state.values()):
        raise ValueError(f"{path} is no readable PyTorch state dict: it holds something other than tensors")
    return {name: tensor.to_numpy() for name, tensor in state.items()}


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        description = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if description is None:
            raise ValueError("the archive holds no data.pkl")
        folder = description.removesuffix("data.pkl") + "data/"
        with archive.open(description) as file:
            unpickler = _StateDictUnpickler(file)
            state = unpickler.load()
        for storage in unpickler.storages.values():
            storage.fill(archive.read(folder + storage.key))
    return state


def _read_legacy(path: Path) -> Any:
    with path.open("rb") as file:
        if _StateDictUnpickler(file).load() != _LEGACY_MAGIC:
            raise ValueError("it does not begin with PyTorch's magic number")
        _StateDictUnpickler(file).load()  # the protocol's version
        _StateDictUnpickler(file).load()  # the writer's byte order and type sizes
        unpickler = _StateDictUnpickler(file)
        state = unpickler.load()
        for key in _StateDictUnpickler(file).load():
            storage = unpickler.storages[key]
            (size,) = struct.unpack("<q", file.read(8))
            storage.fill(file.read(size * storage.dtype.itemsize))
    return state


class _Storage:
    """The flat memory that one or more tensors look into."""

    def __init__(self, key: str, dtype: np.dtype, size: int) -> None:
        self.key, self.dtype, self.size = key, dtype, size
        self.values = np.zeros(0, dtype)

    def fill(self, raw: bytes) -> None:
        if len(raw) != self.size * self.dtype.itemsize:
            raise ValueError(f"storage {self.key} has {len(raw)} bytes, not {self.size * self.dtype.itemsize}")
        self.values = np.frombuffer(raw, self.dtype)


class _Tensor:
    """A shape and strides over a storage, resolved once the storages have been read."""

    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if offset < 0 or min((0, *strides)) < 0 or last >= storage.size:
            raise ValueError(f"a tensor of shape {shape} reaches outside its storage")

    def to_numpy(self) -> np.ndarray:
        itemsize = self.storage.dtype.itemsize
        strides = [stride * itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(self.storage.values[self.offset :], self.shape, strides)
        return view.copy()


class _StateDictUnpickler(pickle.Unpickler):
    """Unpickles tensor descriptions and nothing else."""

    def __init__(self, file: BinaryIO | Any) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch", "FloatStorage"): _STORAGE_DTYPES["FloatStorage"],
            ("torch", "LongStorage"): _STORAGE_DTYPES["LongStorage"],
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no part of a tensor")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size = pid[:5]
        if kind != "storage":
            raise pickle.UnpicklingError(f"it asks for a {kind}, not a storage")
        return self.storages.setdefault(key, _Storage(key, dtype, size))
