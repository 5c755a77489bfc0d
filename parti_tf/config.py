"""Every hyperparameter of parti_tf: one frozen dataclass per component, and the sizes the papers publish.

Published sizes are constants that cite their table and are never edited; make a variant with
`dataclasses.replace(PARTI_350M, num_decoder_layers=4)`. A bad combination is refused by name and value.
"""

import dataclasses
import json
import math
from typing import Any, TypeVar, get_type_hints

Config = TypeVar("Config")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{type(config).__name__}.{name} is {value}; it must be positive")


def _require_rate(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0.0 <= value < 1.0, f"{type(config).__name__}.{name} is {value}; it must be in [0, 1)")


def to_dict(config: Any) -> dict[str, Any]:
    """Gives a config as nested plain dicts, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
    """Gives a `cls` config from nested plain dicts.

    Raises:
      ValueError: a field is unknown or missing, or a value is refused by the config itself.
    """
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    _require(not unknown, f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(hints))}")
    given = {name: _from_json(name, hints[name], value) for name, value in values.items()}
    try:
        return cls(**given)
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from None


def _from_json(name: str, hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        _require(isinstance(value, dict), f"{name} is {value!r}; it must be the fields of a {hint.__name__}")
        return from_dict(hint, value)
    return tuple(value) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class TextTokenizerConfig:
    """The SentencePiece caption tokenizer (Parti 2.2): 16,000 pieces, at most 128 tokens a caption."""

    vocab_size: int = 16_000
    max_length: int = 128

    def __post_init__(self) -> None:
        _require_positive(self, "vocab_size")
        _require(self.max_length >= 2, f"TextTokenizerConfig.max_length is {self.max_length}; it must be at least 2")


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """One side of the image tokenizer: a stack of pre-LN Transformer blocks (ViT-VQGAN Table 2).

    `head_dim` stands apart from `model_dim`: Large has 16 heads of 64, narrower than its 1280, which is
    what its printed 599M parameters imply.
    """

    num_layers: int
    model_dim: int
    mlp_dim: int
    num_heads: int
    head_dim: int = 64
    dropout_rate: float = 0.0
    activation: str = "gelu"  # Ours: as in ViT; the paper names none

    def __post_init__(self) -> None:
        _require_positive(self, "num_layers", "model_dim", "mlp_dim", "num_heads", "head_dim")
        _require_rate(self, "dropout_rate")


@dataclasses.dataclass(frozen=True)
class VitVqganConfig:
    """The image tokenizer and detokenizer (Parti 2.1, ViT-VQGAN 3)."""

    encoder: VitConfig
    decoder: VitConfig
    image_size: int = 256  # pixels, square
    patch_size: int = 8  # pixels, square
    codebook_size: int = 8192
    codebook_dim: int = 32  # the factorised lookup width (ViT-VQGAN 3.2)

    def __post_init__(self) -> None:
        _require_positive(self, "image_size", "patch_size", "codebook_size", "codebook_dim")
        _require(
            self.image_size % self.patch_size == 0,
            f"VitVqganConfig.image_size {self.image_size} does not divide by patch_size {self.patch_size}",
        )

    @property
    def grid_size(self) -> int:
        """Tokens along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens of one image, in raster order."""
        return self.grid_size**2


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
    """The caption-to-image-token Transformer (Parti 2.2, Table 1; the columns keep their names).

    Attributes:
      conv_window: side of the conv-shaped sparse self-attention window in image tokens, odd. The paper
        names the attention, not its size; 11 is DALL-E's (Appendix B.1).
      full_attention_layers: decoder layers, counted from 0, whose self-attention is full causal instead.
      qk_norm: normalise queries and keys per head before their product. Not in the paper; keeps long
        trainings stable.
    """

    num_encoder_layers: int
    num_decoder_layers: int
    model_dim: int
    mlp_dim: int
    num_heads: int
    text_vocab_size: int = 16_000
    text_length: int = 128
    codebook_size: int = 8192
    grid_size: int = 32
    conv_window: int = 11
    full_attention_layers: tuple[int, ...] = ()  # Ours: the paper says "all models use" the sparse form
    qk_norm: bool = False
    dropout_rate: float = 0.1  # Parti 3

    def __post_init__(self) -> None:
        _require_positive(self, "num_encoder_layers", "num_decoder_layers", "model_dim", "mlp_dim", "num_heads")
        _require_positive(self, "text_vocab_size", "text_length", "codebook_size", "grid_size", "conv_window")
        _require_rate(self, "dropout_rate")
        _require(
            self.model_dim % self.num_heads == 0,
            f"EncoderDecoderConfig.model_dim {self.model_dim} does not divide by num_heads {self.num_heads}",
        )
        _require(self.conv_window % 2 == 1, f"EncoderDecoderConfig.conv_window is {self.conv_window}; it must be odd")
        outside = [layer for layer in self.full_attention_layers if not 0 <= layer < self.num_decoder_layers]
        _require(
            not outside,
            f"EncoderDecoderConfig.full_attention_layers names {outside}; decoder layers are "
            f"0 to {self.num_decoder_layers - 1}",
        )

    @property
    def head_dim(self) -> int:
        return self.model_dim // self.num_heads

    @property
    def num_tokens(self) -> int:
        """Image tokens of one picture."""
        return self.grid_size**2


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn (Parti 2.4).

    Attributes:
      guidance_scale: lambda of Eq. 1; 1 is the conditional model alone, 0 the unconditional one.
      temperature: divides the guided logits.
      top_k: keep the k most likely codes; 0 keeps all.
      top_p: keep the smallest set of codes whose probability reaches p; 1 keeps all.
    """

    guidance_scale: float = 1.2  # Parti Table 5
    temperature: float = 1.0  # ViT-VQGAN 3.2
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        guidance_scale, temperature = self.guidance_scale, self.temperature
        _require(
            0 <= guidance_scale < math.inf, f"guidance_scale is {guidance_scale}; it must be at least 0 and finite"
        )
        _require(0 < temperature < math.inf, f"temperature is {temperature}; it must be above 0 and finite")
        _require(self.top_k >= 0, f"top_k is {self.top_k}; it must be at least 0 (0 keeps every code)")
        _require(0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be in (0, 1]")


@dataclasses.dataclass(frozen=True)
class SamplingOverrides:
    """What a user asks of the sampling; None leaves it to the preset. Fields as in `SamplingConfig`."""

    guidance_scale: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def over(self, sampling: SamplingConfig) -> SamplingConfig:
        """Gives `sampling` with what is asked for in its place.

        Raises:
          ValueError: a value is outside its range.
        """
        asked = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(sampling, **asked)


@dataclasses.dataclass(frozen=True)
class PartiConfig:
    """A whole text-to-image system: what `config.json` of a preset holds (Parti Fig. 3).

    `sampling` is how this system draws where its user asks for nothing else.
    """

    text_tokenizer: TextTokenizerConfig
    image_tokenizer: VitVqganConfig
    transformer: EncoderDecoderConfig
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        text, image, transformer = self.text_tokenizer, self.image_tokenizer, self.transformer
        for name, ours, theirs in (
            ("text_vocab_size", transformer.text_vocab_size, text.vocab_size),
            ("text_length", transformer.text_length, text.max_length),
            ("codebook_size", transformer.codebook_size, image.codebook_size),
            ("grid_size", transformer.grid_size, image.grid_size),
        ):
            _require(ours == theirs, f"PartiConfig.transformer.{name} is {ours}, but its tokenizer gives {theirs}")
        _require(
            self.sampling.top_k <= image.codebook_size,
            f"PartiConfig.sampling.top_k is {self.sampling.top_k}; the codebook has {image.codebook_size} codes",
        )


@dataclasses.dataclass(frozen=True)
class ReconstructionLossConfig:
    """Weights of the image tokenizer's losses (ViT-VQGAN 3.3, Eq. 1)."""

    l2: float = 1.0
    perceptual: float = 0.1
    vq: float = 1.0
    commitment: float = 0.25  # beta of Eq. 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            _require(value >= 0, f"ReconstructionLossConfig.{field.name} is {value}; it must be at least 0")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, then cosine decay to `final_rate` (ViT-VQGAN 5.1).

    `beta_2` and `weight_decay` default to the image tokenizer's; Parti trains its Transformer with
    beta2 0.96 and decay 0.045 (Parti 3).
    """

    learning_rate: float = 1e-4
    final_rate: float = 5e-5
    warmup_steps: int = 50_000
    beta_1: float = 0.9
    beta_2: float = 0.99
    weight_decay: float = 1e-4
    clip_norm: float = 4.0  # global norm; 0 clips nothing (Parti 3)

    def __post_init__(self) -> None:
        _require_positive(self, "learning_rate")
        _require_rate(self, "beta_1", "beta_2")
        _require(
            0 <= self.final_rate <= self.learning_rate,
            f"OptimizerConfig.final_rate is {self.final_rate}; it must be in [0, learning_rate {self.learning_rate}]",
        )
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            value = getattr(self, name)
            _require(value >= 0, f"OptimizerConfig.{name} is {value}; it must be at least 0")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """What every training run shares: how long, how large, how often it is looked at and saved.

    Attributes:
      total_steps: optimizer steps of the whole run, resumed parts included; a multiple of steps_per_epoch.
      steps_per_epoch: steps between two validations, pictures and checkpoints.
      caption_dropout: share of captions replaced by the empty one, for guidance (Parti 2.4). The paper
        prints no rate; 0.1 is what Muse and LlamaGen print. The image tokenizer has no captions.
      mixed_precision: a Keras dtype policy, `float32` or `mixed_bfloat16` (Parti 3).
    """

    total_steps: int = 500_000
    steps_per_epoch: int = 1_000
    batch_size: int = 256
    seed: int = 0
    caption_dropout: float = 0.1
    mixed_precision: str = "float32"
    jit_compile: bool = True
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    losses: ReconstructionLossConfig = dataclasses.field(default_factory=ReconstructionLossConfig)

    def __post_init__(self) -> None:
        _require_positive(self, "total_steps", "steps_per_epoch", "batch_size")
        _require(
            self.total_steps % self.steps_per_epoch == 0,
            f"TrainingConfig.total_steps {self.total_steps} does not divide by steps_per_epoch {self.steps_per_epoch}",
        )
        _require_rate(self, "caption_dropout")
        allowed = ("float32", "mixed_bfloat16")
        _require(
            self.mixed_precision in allowed,
            f"TrainingConfig.mixed_precision is {self.mixed_precision!r}; it must be one of {', '.join(allowed)}",
        )


@dataclasses.dataclass(frozen=True)
class EmojiDataConfig:
    """How the Emoji-3 records are built.

    Attributes:
      out: folder of the finished dataset.
      image_size: pixels along one side of the square pictures.
      num_shards: files of the train split; each held-out split is one file.
      seed: order of the records.
      downloads: folder where the npm archives are kept.
      overwrite: build again where `out` holds a dataset built with other options.
    """

    out: str = "data/emoji3"
    image_size: int = 64
    num_shards: int = 4
    seed: int = 0
    downloads: str = "data/downloads"
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("image_size", "num_shards"):
            value = getattr(self, name)
            _require(value >= 1, f"EmojiDataConfig.{name} is {value}; it must be at least 1")


def load_parti_config(text: str) -> PartiConfig:
    """Gives the `PartiConfig` that a preset's `config.json` holds.

    Raises:
      ValueError: the text is no JSON, or its fields are wrong.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"config is no valid JSON: {error}") from None
    _require(isinstance(values, dict), "config is no JSON object")
    return from_dict(PartiConfig, values)


# ViT-VQGAN Table 2: blocks, heads, dim, hidden. Each row is one side, encoder or decoder.
VIT_SMALL = VitConfig(num_layers=8, model_dim=512, mlp_dim=2048, num_heads=8)
VIT_BASE = VitConfig(num_layers=12, model_dim=768, mlp_dim=3072, num_heads=12)
VIT_LARGE = VitConfig(num_layers=32, model_dim=1280, mlp_dim=5120, num_heads=16)
VIT_VQGAN_SMALL = VitVqganConfig(encoder=VIT_SMALL, decoder=VIT_SMALL)
VIT_VQGAN_BASE = VitVqganConfig(encoder=VIT_BASE, decoder=VIT_BASE)
VIT_VQGAN_LARGE = VitVqganConfig(encoder=VIT_LARGE, decoder=VIT_LARGE)

# Parti Table 1: encoder layers, decoder layers, d_model, MLP dim, heads.
PARTI_350M = EncoderDecoderConfig(12, 12, model_dim=1024, mlp_dim=4096, num_heads=16)
PARTI_750M = EncoderDecoderConfig(12, 36, model_dim=1024, mlp_dim=4096, num_heads=16)
PARTI_3B = EncoderDecoderConfig(12, 36, model_dim=2048, mlp_dim=8192, num_heads=32)
PARTI_20B = EncoderDecoderConfig(16, 64, model_dim=4096, mlp_dim=16384, num_heads=64)

# Ours: the embedded model, small enough to train on two CPU cores and to live in the repository.
EMOJI_64 = PartiConfig(
    text_tokenizer=TextTokenizerConfig(vocab_size=4000, max_length=32),
    image_tokenizer=VitVqganConfig(
        encoder=VitConfig(num_layers=3, model_dim=192, mlp_dim=768, num_heads=3, activation="relu"),
        decoder=VitConfig(num_layers=4, model_dim=192, mlp_dim=768, num_heads=3, activation="relu"),
        image_size=64,
        patch_size=4,
        codebook_size=1024,
        codebook_dim=16,
    ),
    transformer=EncoderDecoderConfig(
        num_encoder_layers=3,
        num_decoder_layers=4,
        model_dim=256,
        mlp_dim=1024,
        num_heads=4,
        text_vocab_size=4000,
        text_length=32,
        codebook_size=1024,
        grid_size=16,
        full_attention_layers=(1, 3),
        dropout_rate=0.0,
    ),
    sampling=SamplingConfig(guidance_scale=2.0, temperature=0.5),
)
