import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from parti_tf import cli, config, preset_files
from parti_tf.training import options
from parti_tf.training.options import TrainTokenizerOptions, TrainTransformerOptions


def test_the_defaults_are_the_embedded_models():
    assert TrainTokenizerOptions().model == config.EMOJI_64.image_tokenizer
    assert TrainTransformerOptions().model == config.EMOJI_64.transformer
    assert TrainTransformerOptions().image_tokenizer == TrainTokenizerOptions().run_folder


def test_the_dtypes_are_those_that_presets_can_have():
    assert set(options.PRESET_DTYPES) == set(preset_files.WEIGHT_DTYPES)


def test_options_need_no_tensorflow():
    code = "import sys, parti_tf.training.options\nassert not {'tensorflow', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tokenizer", "--weights", "worst"], "TrainTokenizerOptions.weights is 'worst'; it must be one of best, last"),
        (
            ["tokenizer", "--num-validation-examples", "0"],
            "TrainTokenizerOptions.num_validation_examples is 0; it must be at least 1",
        ),
        (
            ["transformer", "--preset-dtype", "int8"],
            "TrainTransformerOptions.preset_dtype is 'int8'; it must be one of float32, float16",
        ),
        (
            ["tokenizer", "--training.total-steps", "7"],
            "TrainingConfig.total_steps 7 does not divide by steps_per_epoch 250",
        ),
        (["tokenizer", "emoji_64", "--model.patch-size", "7"], "VitVqganConfig.image_size 64 does not divide by"),
        (["transformer", "parti_350m", "--model.conv-window", "4"], "EncoderDecoderConfig.conv_window is 4; it must"),
        (["tokenizer", "--data", "/no/such"], "no data folder /no/such"),
    ],
)
def test_bad_options_are_told_in_one_line(words, message, capsys):
    assert cli.main(["train", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"parti: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tokenizer"], TrainTokenizerOptions()),
        (
            ["tokenizer", "--run-folder", "r", "vit_vqgan_small", "--model.codebook-size", "64"],
            TrainTokenizerOptions(run_folder="r", model=dataclasses.replace(config.VIT_VQGAN_SMALL, codebook_size=64)),
        ),
        (
            ["transformer", "--sample-captions", "a cat", "a dog", "--sampling.top-k", "9", "parti_350m"],
            TrainTransformerOptions(
                sample_captions=("a cat", "a dog"),
                sampling=dataclasses.replace(config.EMOJI_64.sampling, top_k=9),
                model=config.PARTI_350M,
            ),
        ),
    ],
)
def test_the_command_line_names_a_size_and_changes_it(words, expected):
    name = "train_tokenizer" if words[0] == "tokenizer" else "train_transformer"
    assert read_options(name, words[1:]) == expected


def read_options(name: str, words: list[str]):
    """Gives the options that a command of `cli` would run with."""
    import tyro

    (annotation,) = (value for key, value in cli.__dict__[name].__annotations__.items() if key == "options")
    return tyro.cli(annotation, args=words, default=annotation.__origin__())
