import dataclasses
import json
import resource

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from parti_tf import preset_files
from parti_tf.config import EMOJI_64
from parti_tf.models.encoder_decoder import EncoderDecoder
from parti_tf.models.vit_vqgan import VitVqgan
from parti_tf.preset_files import find_preset, list_presets, read_config, read_weights, write_config, write_weights
from tests import tiny
from tests.tiny import tiny_image_tokenizer, tiny_transformer


@pytest.fixture(scope="module")
def model():
    return tiny_image_tokenizer()


@pytest.fixture
def weights(model, tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, model)
    return path


def assert_unchanged(folder, files: dict[str, bytes]) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_float32_weights_come_back_as_they_were(model, weights):
    again = tiny_image_tokenizer(seed=1)
    read_weights(weights, again)
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_float16_weights_come_back_rounded_from_half_the_file(model, weights, tmp_path):
    half, again = tmp_path / "half.safetensors", tiny_image_tokenizer(seed=1)
    write_weights(half, model, "float16")
    read_weights(half, again)
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        assert ours.dtype == "float32"
        np.testing.assert_array_equal(ours, np.asarray(theirs).astype("float16"))
    num_weights = sum(int(np.prod(weight.shape)) for weight in model.weights)
    assert weights.stat().st_size - half.stat().st_size == pytest.approx(2 * num_weights, abs=500)  # headers differ


def test_keys_are_paths_below_the_model_that_other_tools_can_read(model, weights):
    tensors = load_file(weights)
    assert "quantizer/codebook" in tensors
    assert "encoder/block_0/self_attention/query/kernel" in tensors
    assert len(tensors) == len(model.weights)


class Training(keras.Model):
    """Something that holds a model, as a training run does."""

    def __init__(self):
        super().__init__()
        self.part = VitVqgan(tiny.VIT_VQGAN)

    def build(self, _):
        self.part.build()


def test_keys_are_the_same_for_a_model_that_is_a_part_of_another(weights, tmp_path):
    training = Training()
    training.build(None)
    assert training.weights[0].path.startswith("training/")
    write_weights(tmp_path / "part.safetensors", training.part)
    assert set(load_file(tmp_path / "part.safetensors")) == set(load_file(weights))
    read_weights(weights, training.part)


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="the preset has no file .*absent.safetensors"):
        read_weights(tmp_path / "absent.safetensors", model)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_truncated_file_is_refused_and_changes_nothing(weights, keep):
    contents = weights.read_bytes()
    weights.write_bytes(contents[: int(keep * len(contents)) if isinstance(keep, float) else keep])
    again = tiny_image_tokenizer(seed=1)
    before = again.get_weights()
    with pytest.raises(ValueError, match="model.safetensors is truncated or corrupted: ") as error:
        read_weights(weights, again)
    assert "\n" not in str(error.value)
    for ours, theirs in zip(again.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_weights_file_at_all_is_refused(weights, model):
    weights.write_bytes(b"a text that is longer than a header and is no safetensors file")
    with pytest.raises(ValueError, match="is truncated or corrupted"):
        read_weights(weights, model)


def test_weights_of_other_shapes_are_refused_and_change_nothing(weights):
    other = tiny_image_tokenizer(codebook_size=30)
    before = other.get_weights()
    with pytest.raises(ValueError, match=r"quantizer/codebook has shape \(24, 4\), the config asks for \(30, 4\)"):
        read_weights(weights, other)
    for ours, theirs in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_another_model_are_refused(weights):
    with pytest.raises(ValueError, match=r"does not fit its config: \d+ weights differ, first "):
        read_weights(weights, tiny_transformer())
    deeper = tiny_image_tokenizer(encoder=dataclasses.replace(tiny.VIT, num_layers=2))
    with pytest.raises(ValueError, match="weights differ, first encoder/block_1/"):
        read_weights(weights, deeper)


def test_weights_that_are_not_finite_are_refused_on_both_ways(weights, model, tmp_path):
    tensors = load_file(weights)
    tensors["encoder/norm/gamma"][3] = np.nan
    save_file(tensors, weights)
    with pytest.raises(ValueError, match="encoder/norm/gamma holds values that are not finite in float32"):
        read_weights(weights, tiny_image_tokenizer())
    large = tiny_image_tokenizer()
    large.encoder.norm.gamma.assign(np.full(16, 1e6))
    with pytest.raises(ValueError, match="encoder/norm/gamma holds values that are not finite in float16"):
        write_weights(tmp_path / "large.safetensors", large, "float16")
    assert not (tmp_path / "large.safetensors").exists()


def test_another_dtype_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="weights dtype is 'int8'; it must be one of float32, float16"):
        write_weights(tmp_path / "model.safetensors", model, "int8")


def test_a_write_that_fails_half_way_leaves_the_file_before(model, weights, tmp_path):
    write_config(tmp_path, tiny.PARTI)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # the disk is full after 200 bytes
    try:
        for write in (lambda: write_weights(weights, model), lambda: write_config(tmp_path, tiny.PARTI)):
            with pytest.raises(Exception, match="File too large"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_unchanged(tmp_path, files)


def test_a_config_comes_back(tmp_path):
    config = dataclasses.replace(
        tiny.PARTI, transformer=dataclasses.replace(tiny.ENCODER_DECODER, full_attention_layers=(1,))
    )
    write_config(tmp_path, config)
    assert read_config(tmp_path) == config
    assert_unchanged(tmp_path, {"config.json": (tmp_path / "config.json").read_bytes()})


def test_a_bad_config_is_refused_by_file_and_field(tmp_path):
    values = json.loads(json.dumps(dataclasses.asdict(tiny.PARTI)))
    path = tmp_path / "config.json"
    for change, message in (
        (lambda v: v["image_tokenizer"].update(patches=3), "VitVqganConfig has no field patches"),
        (lambda v: v["image_tokenizer"].update(patch_size=5), "image_size 16 does not divide by patch_size 5"),
        (lambda v: v["transformer"].pop("model_dim"), "missing 1 required positional argument: 'model_dim'"),
    ):
        changed = json.loads(json.dumps(values))
        change(changed)
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=f"config.json: .*{message}"):
            read_config(tmp_path)
    for contents in (b'{"text_tokenizer": ', b"\xff\xfe\x00"):
        path.write_bytes(contents)
        with pytest.raises(ValueError, match="config.json: "):
            read_config(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="the preset has no file .*config.json"):
        read_config(tmp_path)


def test_a_preset_is_found_by_folder_and_by_name(tmp_path):
    write_config(tmp_path, tiny.PARTI)
    assert find_preset(tmp_path) == find_preset(str(tmp_path)) == tmp_path
    for name in list_presets():
        assert find_preset(name) == preset_files.PRESETS / name


def test_an_unknown_preset_is_refused_with_the_names_that_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="no preset 'emojis'; there is ") as error:
        find_preset("emojis")
    assert all(name in str(error.value) for name in list_presets())
    assert set(list_presets()) <= {path.name for path in preset_files.PRESETS.iterdir()}
    with pytest.raises(FileNotFoundError, match="is no preset: it has no config.json"):
        find_preset(tmp_path)


def test_weights_are_as_readable_as_any_file_of_the_user(tmp_path):
    (tmp_path / "any").touch()
    preset_files.write_weights(tmp_path / "weights.safetensors", tiny.tiny_image_tokenizer())
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_the_embedded_preset_is_the_published_config_whole_and_at_most_40_mb():
    folder = find_preset("emoji_64")
    assert read_config(folder) == EMOJI_64
    read_weights(folder / preset_files.IMAGE_TOKENIZER, built(VitVqgan(EMOJI_64.image_tokenizer)))
    read_weights(folder / preset_files.TRANSFORMER, built(EncoderDecoder(EMOJI_64.transformer)))
    assert {"MODEL_CARD.md", "NOTICE"} <= {path.name for path in folder.iterdir()}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 40e6


def built(model: keras.Model) -> keras.Model:
    model.build()
    return model
