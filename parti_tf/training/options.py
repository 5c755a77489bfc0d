"""What `parti train` can be told. Imports no TensorFlow."""

import dataclasses
from typing import Annotated

import tyro

from parti_tf.config import (
    EMOJI_64,
    PARTI_3B,
    PARTI_20B,
    PARTI_350M,
    PARTI_750M,
    VIT_VQGAN_BASE,
    VIT_VQGAN_LARGE,
    VIT_VQGAN_SMALL,
    EncoderDecoderConfig,
    OptimizerConfig,
    ReconstructionLossConfig,
    SamplingConfig,
    TrainingConfig,
    VitVqganConfig,
)

WEIGHTS = ("best", "last")
PRESET_DTYPES = ("float32", "float16")


# The sizes that a command line names, each of whose fields it can change: `vit_vqgan_small --model.image-size 64`.
TOKENIZER_SIZES = {
    "emoji_64": EMOJI_64.image_tokenizer,
    "vit_vqgan_small": VIT_VQGAN_SMALL,
    "vit_vqgan_base": VIT_VQGAN_BASE,
    "vit_vqgan_large": VIT_VQGAN_LARGE,
}
TRANSFORMER_SIZES = {
    "emoji_64": EMOJI_64.transformer,
    "parti_350m": PARTI_350M,
    "parti_750m": PARTI_750M,
    "parti_3b": PARTI_3B,
    "parti_20b": PARTI_20B,
}
_TokenizerSize = tyro.extras.subcommand_type_from_defaults(TOKENIZER_SIZES, prefix_names=False)
_TransformerSize = tyro.extras.subcommand_type_from_defaults(TRANSFORMER_SIZES, prefix_names=False)

# Ours: how the embedded model is trained. Without XLA, whose bfloat16 products on a CPU take twice as long.
EMOJI_64_TOKENIZER_TRAINING = TrainingConfig(
    total_steps=2_000,
    steps_per_epoch=250,
    batch_size=16,
    mixed_precision="mixed_bfloat16",
    jit_compile=False,
    optimizer=OptimizerConfig(
        learning_rate=1e-3, final_rate=2e-5, warmup_steps=200, beta_2=0.99, weight_decay=1e-4, clip_norm=1.0
    ),
    losses=ReconstructionLossConfig(perceptual=0.0),
)
EMOJI_64_TRANSFORMER_TRAINING = TrainingConfig(
    total_steps=3_000,
    steps_per_epoch=300,
    batch_size=32,
    mixed_precision="mixed_bfloat16",
    jit_compile=False,
    optimizer=OptimizerConfig(
        learning_rate=1e-3, final_rate=2e-5, warmup_steps=200, beta_2=0.96, weight_decay=0.045, clip_norm=1.0
    ),
)


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What both trainings share.

    Attributes:
      data: folder of image-text records, as `parti data emoji` builds it.
      train_split: the split to train on; every other one is held out.
      run_folder: where the run keeps its checkpoints, curves and pictures. Named again, the run goes on.
      num_validation_examples: held-out examples that are looked at after every epoch, at most.
      weights: which weights are given out at the end: `last`, or `best` on the held-out examples.
      start_from: a preset, by name or folder, whose weights a new run starts from; empty starts afresh.
    """

    data: str = "data/emoji3"
    train_split: str = "train"
    run_folder: str = "runs/run"
    num_validation_examples: int = 1024
    weights: str = "last"
    start_from: str = ""

    def __post_init__(self) -> None:
        name, count = type(self).__name__, self.num_validation_examples
        if count < 1:
            raise ValueError(f"{name}.num_validation_examples is {count}; it must be at least 1")
        if self.weights not in WEIGHTS:
            raise ValueError(f"{name}.weights is {self.weights!r}; it must be one of {', '.join(WEIGHTS)}")


@dataclasses.dataclass(frozen=True)
class TrainTokenizerOptions(TrainOptions):
    """How the image tokenizer is trained; the defaults are the embedded model's.

    Attributes:
      random_crop: train on random crops, mirrored half of the time (DALL-E Listing 1), not on whole squares.
      perceptual_weights: a torchvision MobileNetV2 checkpoint for the perceptual loss, in place of the
        installed one.
      model: sizes of the image tokenizer.
      training: the run's hyperparameters; the image tokenizer has no captions to drop.
    """

    run_folder: str = "runs/tokenizer"
    random_crop: bool = False
    perceptual_weights: str = ""
    model: Annotated[VitVqganConfig, tyro.conf.arg(constructor=_TokenizerSize)] = EMOJI_64.image_tokenizer
    training: TrainingConfig = EMOJI_64_TOKENIZER_TRAINING


@dataclasses.dataclass(frozen=True)
class TrainTransformerOptions(TrainOptions):
    """How the Transformer is trained; the defaults are the embedded model's.

    Attributes:
      text_tokenizer: a SentencePiece model file.
      image_tokenizer: folder of a finished `parti train tokenizer` run, or a preset's name or folder.
      preset_out: folder of the preset that the finished run writes.
      preset_dtype: of the preset's weights, `float32` or `float16`.
      sample_captions: captions that are drawn after every epoch; some train and held-out ones by default.
      sampling: how the preset draws where its user asks for nothing else, and the pictures after every epoch.
      model: sizes of the Transformer.
      training: the run's hyperparameters.
    """

    run_folder: str = "runs/transformer"
    text_tokenizer: str = "data/emoji3/sentencepiece.model"
    image_tokenizer: str = "runs/tokenizer"
    preset_out: str = "runs/preset"
    preset_dtype: str = "float16"
    sample_captions: tuple[str, ...] = ()
    sampling: SamplingConfig = EMOJI_64.sampling
    model: Annotated[EncoderDecoderConfig, tyro.conf.arg(constructor=_TransformerSize)] = EMOJI_64.transformer
    training: TrainingConfig = EMOJI_64_TRANSFORMER_TRAINING

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset_dtype not in PRESET_DTYPES:
            raise ValueError(
                f"TrainTransformerOptions.preset_dtype is {self.preset_dtype!r}; it must be one of "
                f"{', '.join(PRESET_DTYPES)}"
            )
