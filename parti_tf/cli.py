"""The `parti` command: one function a subcommand, whose parameters are the command's options.

To add a command, write a function with a docstring and decorate it. What it runs is imported inside it, and
the types of its parameters come from modules that import no TensorFlow, so `parti --help` answers at once.
"""

import contextlib
import dataclasses
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import Positional
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo
from tyro.extras import SubcommandApp

from parti_tf.config import EmojiDataConfig, SamplingConfig, SamplingOverrides, TextTokenizerConfig
from parti_tf.evaluation.options import EvaluateTokenizerOptions, EvaluateTransformerOptions
from parti_tf.training.options import TrainTokenizerOptions, TrainTransformerOptions

Config = TypeVar("Config")
Flat = Annotated[Config, tyro.conf.arg(name="")]  # the fields of a config as options of their own, without a prefix

DESCRIPTION = "Parti: pictures from captions, and what it takes to train the models that draw them."


class RefusedOptionError(Exception):
    """A config refused a value. Not a ValueError, which tyro would show in a frame, with names of its own making."""


# What commands raise for bad input and surroundings; all else is a bug.
MISTAKES = (RefusedOptionError, ValueError, OSError, ImportError)

app = SubcommandApp()


@app.command
def generate(
    prompts: Annotated[tuple[str, ...], Positional, tyro.conf.arg(metavar="CAPTION ...")],
    *,
    preset: str = "emoji_64",
    num_samples: int = 4,
    seed: int = 0,
    out: Path = Path("outputs"),
    sampling: Flat[SamplingOverrides] = SamplingOverrides(),
) -> None:
    """Draws pictures of captions (Parti Fig. 3).

    Writes one PNG a picture, OUT/0000_a-red-heart_00.png, and all of them with their captions in OUT/grid.png.

    Args:
      prompts: captions, each in quotes.
      preset: a model that comes with parti_tf, or the folder of one.
      num_samples: pictures of each caption.
      seed: another seed, other pictures.
      out: folder of the pictures; earlier ones of the same names are replaced.
      sampling: how image tokens are drawn; the preset's own way unless given.
    """
    if not prompts:
        raise ValueError('no caption was given; write at least one, in quotes, as in parti generate "a red heart"')
    sampling.over(SamplingConfig())  # refuses a bad value before anything is loaded
    from parti_tf.data import image_files
    from parti_tf.pipeline import TextToImage

    text_to_image = TextToImage.from_preset(preset)
    begin = time.perf_counter()
    with _progress_bar("drawing", unit="token") as show_progress:
        images = text_to_image.generate(
            list(prompts), num_samples=num_samples, seed=seed, progress=show_progress, **dataclasses.asdict(sampling)
        )
    seconds = time.perf_counter() - begin
    paths = image_files.write_samples(out, prompts, images)
    labels = [prompt for prompt in prompts for _ in range(num_samples)]
    in_a_row = num_samples if num_samples > 1 else len(prompts)
    columns = math.ceil(in_a_row / math.ceil(in_a_row / 8))  # at most 8, and rows of even length
    grid = image_files.labelled_grid(images.reshape(-1, *images.shape[2:]), labels, columns)
    paths.append(image_files.write_png(out / "grid.png", grid))
    print(*paths, sep="\n")
    print(f"{len(labels)} pictures in {seconds:.1f} s")


data = SubcommandApp()
app.command(data, name="data", help="Builds what models are trained on.")


@data.command
def emoji(config: Flat[EmojiDataConfig] = EmojiDataConfig()) -> None:
    """Builds Emoji-3: drawings of every emoji with their names, as records, from pinned npm packages."""
    from parti_tf.data.emoji import build_emoji

    metadata = build_emoji(config)
    print(", ".join(f"{split} {count}" for split, count in metadata["counts"].items()), f"pairs in {config.out}")


@data.command(name="text-tokenizer")
def text_tokenizer(
    captions: Annotated[tuple[Path, ...], Positional, tyro.conf.arg(metavar="FILE ...")],
    *,
    out: Path = Path("sentencepiece.model"),
    config: Flat[TextTokenizerConfig] = TextTokenizerConfig(),
    model_type: str = "unigram",
    lowercase: bool = False,
    character_coverage: float = 0.9995,
    sample_size: int = 10_000_000,
) -> None:
    """Trains the caption tokenizer, a SentencePiece model (Parti 2.2).

    Args:
      captions: files of UTF-8 text, one caption a line.
      out: the model file to write.
      config: vocabulary and caption length.
      model_type: unigram or bpe.
      lowercase: fold letter case.
      character_coverage: share of the text's characters that get a piece of their own; 1 suits small corpora.
      sample_size: captions drawn at random from a larger corpus.
    """
    from parti_tf.data.text_tokenizer import train_text_tokenizer

    tokenizer = train_text_tokenizer(
        captions,
        out,
        config,
        model_type=model_type,
        lowercase=lowercase,
        character_coverage=character_coverage,
        sample_size=sample_size,
    )
    lines = [line.strip() for path in captions for line in path.read_text("utf-8", errors="replace").splitlines()]
    cut = tokenizer.count_truncated(line for line in lines if line)
    print(f"{tokenizer.vocab_size} pieces in {out}; {cut} captions are longer than {config.max_length} tokens")


train = SubcommandApp()
app.command(train, name="train", help="Trains the models. The same command again goes on with a run that was cut off.")


@train.command(name="tokenizer")
def train_tokenizer(options: Flat[TrainTokenizerOptions] = TrainTokenizerOptions()) -> None:
    """Trains the image tokenizer on a dataset's images (ViT-VQGAN 3.3).

    Options come first, then the name of a size, then changes to it.
    """
    from parti_tf.training import train_image_tokenizer

    train_image_tokenizer.run(options)
    print(f"image tokenizer in {options.run_folder}")


@train.command(name="transformer")
def train_transformer(options: Flat[TrainTransformerOptions] = TrainTransformerOptions()) -> None:
    """Trains the Transformer on a dataset's captions and image tokens (Parti 3), and writes the whole as a preset.

    Options come first, then the name of a size, then changes to it.
    """
    from parti_tf.training import train_encoder_decoder

    train_encoder_decoder.run(options)
    print(f"preset in {options.preset_out}")


evaluate = SubcommandApp()
app.command(
    evaluate, name="evaluate", help="Measures a model on Emoji-3, on what it was trained on and what it was not."
)


@evaluate.command(name="tokenizer")
def evaluate_tokenizer(options: Flat[EvaluateTokenizerOptions] = EvaluateTokenizerOptions()) -> None:
    """Measures what the image tokenizer keeps of pictures: PSNR, codebook usage and perplexity."""
    from parti_tf.evaluation import reconstruction

    reconstruction.run(options)


@evaluate.command(name="transformer")
def evaluate_transformer(options: Flat[EvaluateTransformerOptions] = EvaluateTransformerOptions()) -> None:
    """Measures how well captions become pictures: ranks of the true picture, and forced choices."""
    from parti_tf.evaluation import emoji_evaluation

    emoji_evaluation.run(options)


_registry = ConstructorRegistry()
_being_read: set[type] = set()


@_registry.struct_rule
def _read_config(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Reads dataclasses as tyro does, but lets what they refuse through to `main`."""
    if not dataclasses.is_dataclass(info.type) or info.type in _being_read:
        return None
    _being_read.add(info.type)  # asked again for the same type, this rule stands aside for tyro's own
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _being_read.remove(info.type)
    if not isinstance(spec, StructConstructorSpec):
        return None

    def make(**values: Any) -> Any:
        try:
            return spec.instantiate(**values)
        except ValueError as error:
            raise RefusedOptionError(str(error)) from error

    return dataclasses.replace(spec, instantiate=make)


@contextlib.contextmanager
def _progress_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that is told (done, total) and draws the bar, from the first call on."""
    from tqdm import tqdm

    bars: list[tqdm] = []

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(desc=description, total=total, unit=unit))
        bars[0].update(done - bars[0].n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()


def _tell_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"parti: warning: {' '.join(str(message).split())}", file=sys.stderr)


def main(args: Sequence[str] | None = None, commands: SubcommandApp = app) -> int:
    """Runs one command and gives the exit status: 0, 2 after a mistake of the caller's, 130 after Ctrl-C.

    A mistake is told in one line. PARTI_TRACEBACK=1 shows where it was found.

    Args:
      args: the words after `parti`; those of this process by default.
      commands: what can be run.

    Raises:
      SystemExit: with 2 where the words name no command or option, with 0 after help was printed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's own start-up messages, unless asked for
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _tell_warning
            commands.cli(prog="parti", description=DESCRIPTION, args=args, registry=_registry)
    except KeyboardInterrupt:
        return 130
    except MISTAKES as error:
        if os.environ.get("PARTI_TRACEBACK"):
            traceback.print_exc()
        print(f"parti: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
