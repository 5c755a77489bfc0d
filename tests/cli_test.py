"""The `parti` command: what it answers, how it fails, and that it starts quickly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tyro.extras import SubcommandApp

from parti_tf import cli
from parti_tf.config import TrainingConfig
from parti_tf.data.text_tokenizer import train_text_tokenizer
from parti_tf.pipeline import TextToImage
from tests import tiny

ROOT = Path(__file__).parent.parent
ANIMALS, COLOURS = ("cat", "dog", "fox", "owl", "snake"), ("red", "green", "blue", "Black", "White")
COLOURED_ANIMALS = "\n".join(f"a {colour} {animal} on a table" for animal in ANIMALS for colour in COLOURS)


def run_in_a_process(*args: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "parti_tf.cli", *args],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def preset(tmp_path_factory) -> str:
    """Gives the folder of an untrained preset: 16 pixels, 16 tokens a picture, 24 codes."""
    folder = tmp_path_factory.mktemp("preset")
    (folder / "captions.txt").write_text(f"{COLOURED_ANIMALS}\na red heart\na very quick zebra jumps from my piano\n")
    text_tokenizer = train_text_tokenizer(folder / "captions.txt", folder / "text.model", tiny.TEXT_TOKENIZER)
    parts = text_tokenizer, tiny.tiny_image_tokenizer(), tiny.tiny_transformer()
    TextToImage(tiny.PARTI, *parts).save_to_preset(folder / "tiny")
    return str(folder / "tiny")


def failing_with(error: BaseException) -> SubcommandApp:
    """Gives an app of two commands, one that fails and one that does not."""
    app = SubcommandApp()

    @app.command
    def fail() -> None:
        raise error

    @app.command
    def succeed(text: str = "done") -> None:
        print(text)

    return app


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["generate", "--help"],
        ["data", "--help"],
        ["data", "emoji", "--help"],
        ["evaluate", "transformer", "--help"],
    ],
)
def test_help_exits_0_and_names_the_command(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == 0
    assert "usage: " + " ".join(["parti", *words[:-1]]) in capsys.readouterr().out


def test_help_loads_no_tensorflow():
    code = (
        "import sys\nfrom parti_tf import cli\n"
        "try:\n    cli.main(['generate', '--help'])\n"
        "finally:\n    print('tensorflow' in sys.modules or 'keras' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    assert "--guidance-scale" in result.stdout
    assert result.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate"], "no caption was given"),
        (["generate", "a", "--temperature", "0"], "temperature is 0.0; it must be above 0"),
        (["generate", "a", "--guidance-scale", "-1"], "guidance_scale is -1.0; it must be at least 0"),
        (["generate", "a", "--top-p", "1.5"], "top_p is 1.5; it must be in (0, 1]"),
        (["data", "emoji", "--image-size", "0"], "EmojiDataConfig.image_size is 0; it must be at least 1"),
        (
            ["evaluate", "tokenizer", "--num-images", "0"],
            "EvaluateTokenizerOptions.num_images is 0; it must be at least 1",
        ),
        (["evaluate", "transformer", "--batch-size", "0"], "EvaluateTransformerOptions.batch_size is 0; it must be"),
        (["data", "text-tokenizer", "/no/such.txt"], "no caption file /no/such.txt"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_exits_2(words, message, capsys):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"parti: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing subcommand"),
        (["draw"], "draw"),
        (["generate", "a", "--num-samples", "many"], "--num-samples"),
        (["generate", "a", "--tempratur", "1"], "--temperature"),
    ],
)
def test_words_that_name_no_command_or_option_exit_2(words, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("size is 3;\n  it must be even"), "parti: error: size is 3; it must be even"),
        (FileNotFoundError(2, "No such file", "a.png"), "parti: error: [Errno 2] No such file: 'a.png'"),
        (ConnectionError("npm could not get it"), "parti: error: npm could not get it"),
        (ImportError("install apache-beam"), "parti: error: install apache-beam"),
    ],
)
def test_errors_of_commands_become_one_line(error, line, capsys):
    assert cli.main(["fail"], failing_with(error)) == 2
    assert capsys.readouterr().err == line + "\n"


def test_what_a_nested_config_refuses_is_one_line_too(capsys):
    app = failing_with(ValueError("not reached"))

    @app.command
    def train(training: TrainingConfig = TrainingConfig()) -> None:  # noqa: B008
        print(training.optimizer.learning_rate)

    assert cli.main(["train", "--training.optimizer.learning-rate", "0.01"], app) == 0
    assert capsys.readouterr().out == "0.01\n"
    assert cli.main(["train", "--training.optimizer.learning-rate", "0"], app) == 2
    assert capsys.readouterr().err == "parti: error: OptimizerConfig.learning_rate is 0.0; it must be positive\n"


def test_success_exits_0_and_an_interruption_130(capsys):
    app = failing_with(KeyboardInterrupt())
    assert cli.main(["succeed"], app) == 0
    assert capsys.readouterr().out == "done\n"
    assert cli.main(["fail"], app) == 130


def test_a_bug_is_not_dressed_up_as_a_mistake():
    with pytest.raises(ZeroDivisionError):
        cli.main(["fail"], failing_with(ZeroDivisionError()))


def test_a_process_exits_2_without_a_traceback_unless_one_is_asked_for():
    words = ["generate", "a", "--top-p", "0"]
    plain, traced = run_in_a_process(*words), run_in_a_process(*words, PARTI_TRACEBACK="1")
    assert (plain.returncode, traced.returncode) == (2, 2)
    assert plain.stderr == "parti: error: top_p is 0.0; it must be in (0, 1]\n"
    assert "Traceback" in traced.stderr
    assert traced.stderr.endswith(plain.stderr)


def test_generate_writes_pictures_and_a_grid_and_says_where(preset, tmp_path, capsys):
    words = ["generate", "a red heart", "A tree!", "--preset", preset, "--num-samples", "2", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    stems = ["0000_a-red-heart_00", "0000_a-red-heart_01", "0001_a-tree_00", "0001_a-tree_01", "grid"]
    *paths, summary = capsys.readouterr().out.splitlines()
    assert paths == [str(tmp_path / f"{stem}.png") for stem in stems]
    assert summary.startswith("4 pictures in ")
    assert sorted(tmp_path.iterdir()) == [tmp_path / f"{stem}.png" for stem in stems]
    assert [Image.open(path).size for path in paths[:4]] == [(16, 16)] * 4
    assert Image.open(paths[4]).size == (2 * (128 + 8) + 8, Image.open(paths[4]).height)


def test_a_warning_is_told_in_one_line(preset, tmp_path, capsys):
    assert cli.main(["generate", "red " * 20, "--preset", preset, "--num-samples", "1", "--out", str(tmp_path)]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "tokens, cut to 15" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("parti: warning: caption 'red red")


def test_generate_passes_its_options_on(preset, tmp_path):
    def generate(*options: str) -> list[bytes]:
        words = ["generate", "a red heart", "--preset", preset, "--num-samples", "8", "--out", str(tmp_path), *options]
        assert cli.main(words) == 0
        return [path.read_bytes() for path in sorted(tmp_path.glob("0000*.png"))]

    default = generate()
    assert generate() == default
    assert generate("--seed", "1") != default
    assert generate("--guidance-scale", "30") != default
    assert generate("--temperature", "9") != default
    assert generate("--top-p", "0.2") != default
    assert len(set(default)) > 1
    assert len(set(generate("--top-k", "1"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--top-k", "25"], "top_k is 25; the codebook has 24 codes"),
        (["a", "--num-samples", "0"], "num_samples is 0; it must be an integer of at least 1"),
        (["a", " "], "prompt ' ' is empty"),
        (["a", "--preset", "no_such_model"], "no preset"),
    ],
)
def test_generate_writes_nothing_after_a_mistake(preset, tmp_path, words, message, capsys):
    words = words if "--preset" in words else [*words, "--preset", preset]
    assert cli.main(["generate", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_text_tokenizer_is_trained_by_its_options(tmp_path, capsys):
    captions = tmp_path / "captions.txt"
    captions.write_text(COLOURED_ANIMALS)
    model = tmp_path / "sentencepiece.model"
    words = ["data", "text-tokenizer", str(captions), "--out", str(model), "--vocab-size", "26"]
    assert cli.main([*words, "--max-length", "4"]) == 0
    assert capsys.readouterr().out == f"26 pieces in {model}; 25 captions are longer than 4 tokens\n"
    assert cli.main([*words, "--max-length", "64"]) == 0
    assert "0 captions are longer than 64 tokens" in capsys.readouterr().out

    cased = model.read_bytes()
    assert cli.main([*words, "--lowercase"]) == 0
    lowered = model.read_bytes()
    assert cli.main([*words, "--model-type", "bpe"]) == 0
    assert len({cased, lowered, model.read_bytes()}) == 3


def test_a_text_tokenizer_that_cannot_be_leaves_no_file(tmp_path, capsys):
    captions = tmp_path / "captions.txt"
    captions.write_text("a cat\na dog\n")
    assert cli.main(["data", "text-tokenizer", str(captions), "--out", str(tmp_path / "a.model")]) == 2
    assert "vocab_size is 16000; these captions allow at most" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [captions]
