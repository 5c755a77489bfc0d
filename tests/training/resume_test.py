"""A run killed in the middle and started again ends as if it had not been, bit for bit."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import tiny_run

ROOT = Path(__file__).parents[2]
# Two epochs of three steps: one checkpoint is there, and the second epoch is not finished.
KILLED_AT_STEP_5 = """
import os, pathlib, signal, sys
import keras
from tests.training import tiny_run

class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

stage, *folders = sys.argv[1:]
tiny_run.train(stage, *map(pathlib.Path, folders), callbacks=[Kill()])
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny_run.write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def image_tokenizer(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted_tokenizer")
    tiny_run.train("tokenizer", data, folder, folder)
    return folder


@pytest.mark.parametrize("stage", ["tokenizer", "transformer"])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(stage, data, image_tokenizer, tmp_path):
    killed, whole = tmp_path / "killed", image_tokenizer if stage == "tokenizer" else tmp_path / "whole"
    words = [sys.executable, "-c", KILLED_AT_STEP_5, stage, str(data), str(killed), str(image_tokenizer)]
    process = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert (killed / "checkpoints" / "ckpt-1.index").exists()
    assert not list(killed.rglob("*.safetensors"))

    resumed = tiny_run.train(stage, data, killed, image_tokenizer)
    uninterrupted = tiny_run.train(stage, data, whole, image_tokenizer)
    assert resumed.read_bytes() == uninterrupted.read_bytes()
    for file in ("best.json", "config.json", "log.csv"):
        assert (killed / file).read_text() == (whole / file).read_text(), file
    assert [row["epoch"] for row in csv.DictReader((killed / "log.csv").open())] == ["0", "1"]


def test_a_finished_run_is_not_trained_again(data, image_tokenizer):
    weights = (image_tokenizer / "image_tokenizer.safetensors").read_bytes()
    (image_tokenizer / "image_tokenizer.safetensors").unlink()
    log = (image_tokenizer / "log.csv").read_text()
    assert tiny_run.train("tokenizer", data, image_tokenizer, image_tokenizer).read_bytes() == weights
    assert (image_tokenizer / "log.csv").read_text() == log
