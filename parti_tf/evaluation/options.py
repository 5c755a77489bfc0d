"""What `parti evaluate` can be told. Imports no TensorFlow."""

import dataclasses

from parti_tf.config import SamplingConfig, SamplingOverrides


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What every evaluation shares.

    Attributes:
      preset: a model that comes with parti_tf, or the folder of one.
      data: folder of Emoji-3, as `parti data emoji` builds it.
      results: folder of the figures, JSON.
      pictures: folder of the contact sheets, PNG.
      num_pictures: pictures of each split on a contact sheet.
      batch_size: pictures at a time.
      seed: which images, captions and distractors are drawn, and how the pictures are sampled.
    """

    preset: str = "emoji_64"
    data: str = "data/emoji3"
    results: str = "bench/results"
    pictures: str = "outputs/evaluation"
    num_pictures: int = 16
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        self._require_at_least(1, "num_pictures", "batch_size")
        self._require_at_least(0, "seed")

    def _require_at_least(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{type(self).__name__}.{name} is {value}; it must be at least {least}")


@dataclasses.dataclass(frozen=True)
class EvaluateTokenizerOptions(EvaluateOptions):
    """How the image tokenizer is evaluated.

    Attributes:
      num_images: unseen images, drawn from all held-out splits together, that the headline figures are of.
    """

    num_images: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_images")


@dataclasses.dataclass(frozen=True)
class EvaluateTransformerOptions(EvaluateOptions):
    """How the whole way from caption to picture is evaluated.

    Attributes:
      num_train_captions: captions drawn from the train split.
      num_held_out_captions: captions drawn from each held-out split; 0 takes all of them.
      feature_image_size: pixels along one side to which pictures are resized for MobileNetV2; 224 is what it was
        trained on, 64 takes a tenth of the time and serves for a look in between.
      sampling: how image tokens are drawn, the preset's own way unless given; its `guidance_scale` is that of the
        guided pictures.
    """

    num_train_captions: int = 200
    num_held_out_captions: int = 0
    feature_image_size: int = 224
    sampling: SamplingOverrides = dataclasses.field(default_factory=SamplingOverrides)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_train_captions")
        self._require_at_least(32, "feature_image_size")
        self.sampling.over(SamplingConfig())  # refuses what no preset can draw by
        self._require_at_least(0, "num_held_out_captions")
