"""The files of a preset: one folder with a config, weights and a text tokenizer.

Weights are safetensors files, one a model, keyed by Keras variable path, so other tools can open them.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from parti_tf import config as config_lib
from parti_tf.config import PartiConfig

PRESETS = Path(__file__).parent / "presets"
CONFIG = "config.json"
SENTENCEPIECE = "sentencepiece.model"
IMAGE_TOKENIZER = "image_tokenizer.safetensors"
TRANSFORMER = "transformer.safetensors"
WEIGHT_DTYPES = ("float32", "float16")


def list_presets() -> list[str]:
    """Gives the names of the presets that come with the package."""
    return sorted(path.parent.name for path in PRESETS.glob(f"*/{CONFIG}"))


def find_preset(name_or_folder: str | os.PathLike) -> Path:
    """Gives the folder of a preset that comes with the package, or the folder itself.

    Raises:
      FileNotFoundError: neither is there; the message names the presets that exist.
    """
    for folder in (PRESETS / os.fspath(name_or_folder), Path(name_or_folder)):
        if (folder / CONFIG).is_file():
            return folder
    if Path(name_or_folder).is_dir():
        raise FileNotFoundError(f"{name_or_folder} is no preset: it has no {CONFIG}")
    known = ", ".join(list_presets()) or "none"
    raise FileNotFoundError(f"no preset {os.fspath(name_or_folder)!r}; there is {known}, or name a preset's folder")


def read_config(folder: Path) -> PartiConfig:
    """Gives the config of a preset.

    Raises:
      FileNotFoundError: it has none.
      ValueError: it is no valid config; the message names the file.
    """
    path = _existing(folder / CONFIG)
    try:
        return config_lib.load_parti_config(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_config(folder: Path, config: PartiConfig) -> None:
    """Writes the config of a preset, whole or not at all."""
    with _written_whole(folder / CONFIG) as aside:
        aside.write_text(json.dumps(config_lib.to_dict(config), indent=2) + "\n")


def write_weights(path: Path, model: keras.Model, dtype: str = "float32") -> None:
    """Writes a model's weights to a safetensors file, whole or not at all.

    Raises:
      ValueError: `dtype` is not one of WEIGHT_DTYPES, or too narrow for a weight, or a weight is not finite.
    """
    if dtype not in WEIGHT_DTYPES:
        raise ValueError(f"weights dtype is {dtype!r}; it must be one of {', '.join(WEIGHT_DTYPES)}")
    with np.errstate(over="ignore"):  # refused by name below
        tensors = {key: keras.ops.convert_to_numpy(value).astype(dtype) for key, value in _by_key(model).items()}
    _require_finite(path, tensors)
    with _written_whole(path) as aside:
        aside.touch()
        mode = aside.stat().st_mode  # what the user's umask gives; safetensors lets nobody else read
        save_file(tensors, aside)
        aside.chmod(mode)


def read_weights(path: Path, model: keras.Model) -> None:
    """Loads a built model's weights from a safetensors file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is corrupted, or holds the weights of another model; the message names both sides.
    """
    _existing(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is truncated or corrupted: {error}") from None
    variables = _by_key(model)
    different = sorted(set(variables) ^ set(tensors))
    if different:
        raise ValueError(f"{path} does not fit its config: {len(different)} weights differ, first {different[0]}")
    for key, variable in variables.items():
        if tuple(variable.shape) != tensors[key].shape:
            raise ValueError(
                f"{path}: {key} has shape {tensors[key].shape}, the config asks for {tuple(variable.shape)}"
            )
    _require_finite(path, tensors)
    for key, variable in variables.items():
        variable.assign(tensors[key].astype("float32"))


def _by_key(model: keras.Model) -> dict[str, keras.Variable]:
    """Gives a model's weights by path below the model itself, whatever it is a part of."""
    return {variable.path.split(f"{model.name}/", 1)[1]: variable for variable in model.weights}


def _require_finite(path: Path, tensors: dict[str, np.ndarray]) -> None:
    for key, values in tensors.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: {key} holds values that are not finite in {values.dtype}")


@contextlib.contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; what stands there in the end becomes `path`, unless writing failed."""
    aside = path.with_name(f".{path.name}.unfinished")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"the preset has no file {path}")
    return path
