import csv
import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from parti_tf.config import OptimizerConfig, ReconstructionLossConfig, TrainingConfig
from parti_tf.models.perceptual import PerceptualNetwork, perceptual_distance
from parti_tf.models.vit_vqgan import VitVqgan
from parti_tf.pipeline import TextToImage
from parti_tf.training import train_image_tokenizer
from parti_tf.training.optimizer import make_optimizer
from parti_tf.training.reconstruction_losses import peak_signal_to_noise_ratio
from parti_tf.training.train_image_tokenizer import ImageTokenizerTraining, load_image_tokenizer
from tests import tiny
from tests.training import tiny_run

MIXED = dataclasses.replace(tiny_run.TRAINING, mixed_precision="mixed_bfloat16")
NO_PERCEPTUAL = ReconstructionLossConfig(perceptual=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_run.write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> tuple[Path, VitVqgan]:
    folder = tmp_path_factory.mktemp("run")
    return folder, train_image_tokenizer.run(tiny_run.tokenizer_options(data, folder, training=MIXED))


def images(count: int = 8) -> np.ndarray:
    return np.stack([tiny_run.draw_image(index) for index in range(count)]).astype(np.float32) / 255.0


def test_it_learns_one_batch_by_heart():
    vit = dataclasses.replace(tiny.VIT, model_dim=64, mlp_dim=128, num_heads=4, head_dim=16)
    config = dataclasses.replace(tiny.VIT_VQGAN, encoder=vit, decoder=vit, codebook_size=64, codebook_dim=16)
    training = TrainingConfig(
        total_steps=400,
        steps_per_epoch=400,
        optimizer=OptimizerConfig(learning_rate=5e-3, final_rate=1e-4, warmup_steps=10, weight_decay=0.0, clip_norm=1),
    )
    model = ImageTokenizerTraining(VitVqgan(config), NO_PERCEPTUAL)
    model.build()
    model.compile(make_optimizer(training, model.trainable_variables), jit_compile=False)
    batch = images(2)
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(), steps_per_epoch=400, shuffle=False, verbose=0)
    made = model.tokenizer.detokenize(model.tokenizer.tokenize(batch))
    assert float(np.mean(peak_signal_to_noise_ratio(batch, made))) > 30


def gradient_step(losses: ReconstructionLossConfig, distance=None) -> np.ndarray:
    """Gives the weights of a tokenizer after one plain step on these losses."""
    model = ImageTokenizerTraining(tiny.tiny_image_tokenizer(), losses, distance)
    model.build()
    model.compile("sgd", jit_compile=False)
    model.train_on_batch(images())
    return np.concatenate([np.ravel(weight) for weight in model.tokenizer.trainable_variables])


def test_every_loss_weight_changes_what_is_learned():
    network = PerceptualNetwork(taps=("stem",))
    distance = functools.partial(perceptual_distance, network)
    before = [np.array(weight) for weight in network.weights]
    weights = ReconstructionLossConfig(l2=1.0, perceptual=1.0, vq=1.0, commitment=0.25)
    learned = gradient_step(weights, distance)
    for field in dataclasses.fields(weights):
        changed = dataclasses.replace(weights, **{field.name: 0.0})
        assert np.abs(gradient_step(changed, distance) - learned).max() > 1e-5, field.name
    for old, new in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, new)  # the network itself stays as it was


def test_a_finished_run_is_a_tokenizer_that_loads(finished):
    folder, tokenizer = finished
    loaded, path = load_image_tokenizer(folder)
    assert path == folder / "image_tokenizer.safetensors"
    assert loaded.config == tokenizer.config
    np.testing.assert_array_equal(loaded.tokenize(images()), tokenizer.tokenize(images()))
    assert json.loads((folder / "config.json").read_text())["model"]["codebook_size"] == 24
    assert [path.name for path in sorted((folder / "pictures").iterdir())] == ["0001.png", "0002.png"]
    assert [path.name for path in (folder / "events").iterdir() if path.name == "pictures"]


def test_codebook_use_and_psnr_are_measured_anew_every_epoch(finished):
    rows = list(csv.DictReader((finished[0] / "log.csv").open()))
    names = {"loss", "l2_loss", "codebook_loss", "commitment_loss", "psnr", "codebook_usage", "codebook_perplexity"}
    assert set(rows[0]) == {"epoch", *names, *(f"val_{name}" for name in names)}
    for row in rows:
        usage = float(row["val_codebook_usage"]) * 24
        assert usage == pytest.approx(round(usage), abs=1e-3)  # of 24 codes
        assert 1 <= float(row["val_codebook_perplexity"]) <= 24.001
    metrics = {}
    model = ImageTokenizerTraining(tiny.tiny_image_tokenizer(), NO_PERCEPTUAL)
    model.build()
    model.compile("sgd", jit_compile=False)
    for batch in (images()[:4], images()[4:], images()[:4]):
        metrics = model.evaluate(tf.data.Dataset.from_tensors(batch), verbose=0, return_dict=True)
    used = len(np.unique(model.tokenizer.tokenize(images()[:4])))
    assert metrics["codebook_usage"] == pytest.approx(used / 24)


def test_a_tokenizer_loads_from_a_preset_too(tmp_path):
    system = tiny.tiny_text_to_image(tmp_path)
    system.save_to_preset(tmp_path / "preset")
    loaded, _ = load_image_tokenizer(tmp_path / "preset")
    np.testing.assert_array_equal(loaded.tokenize(images()), system.image_tokenizer.tokenize(images()))
    assert isinstance(TextToImage.from_preset(tmp_path / "preset"), TextToImage)


def test_an_unfinished_run_is_no_tokenizer(finished, tmp_path):
    (tmp_path / "config.json").write_text((finished[0] / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"no file .*image_tokenizer.safetensors"):
        load_image_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no preset .*nowhere"):
        load_image_tokenizer(tmp_path / "nowhere")


def test_crops_change_the_run(data, finished, tmp_path):
    train_image_tokenizer.run(tiny_run.tokenizer_options(data, tmp_path, training=MIXED, random_crop=True))
    files = [folder / "image_tokenizer.safetensors" for folder in (tmp_path, finished[0])]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_mixed_precision_trains_float32_weights_in_bfloat16_and_gives_a_float32_tokenizer(finished, data, tmp_path):
    model = train_image_tokenizer.make_training_model(tiny_run.tokenizer_options(data, tmp_path, training=MIXED))
    assert model.tokenizer.encode(images()).dtype == tf.bfloat16
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert finished[1].encode(images()).dtype == tf.float32


def test_the_perceptual_network_is_there_where_its_loss_has_a_weight(data, tmp_path):
    training = dataclasses.replace(tiny_run.TRAINING, losses=ReconstructionLossConfig(perceptual=0.5))
    options = tiny_run.tokenizer_options(data, tmp_path, training=training)
    model = train_image_tokenizer.make_training_model(options)
    model.compile("sgd", jit_compile=False)
    assert 0 < model.test_on_batch(images(), return_dict=True)["perceptual_loss"] < 4
    tokenizer = model.tokenizer
    assert {id(weight) for weight in model.weights} == {id(weight) for weight in tokenizer.weights}


def test_a_missing_perceptual_network_leaves_nothing_behind(data, tmp_path):
    training = dataclasses.replace(tiny_run.TRAINING, losses=ReconstructionLossConfig())
    options = tiny_run.tokenizer_options(
        data, tmp_path / "run", training=training, perceptual_weights=str(tmp_path / "none.pth")
    )
    with pytest.raises(FileNotFoundError, match="none.pth"):
        train_image_tokenizer.run(options)
    assert not (tmp_path / "run").exists()


def test_a_run_can_start_from_the_weights_of_a_preset(tmp_path, text_to_image):
    text_to_image.save_to_preset(tmp_path / "preset")
    options = tiny_run.tokenizer_options(
        tmp_path, tmp_path / "run", start_from=str(tmp_path / "preset"), model=tiny.VIT_VQGAN
    )
    started = train_image_tokenizer.make_training_model(options).tokenizer
    for ours, theirs in zip(started.weights, text_to_image.image_tokenizer.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
