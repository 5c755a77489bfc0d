"""The smallest config of each component, and a whole untrained system of them."""

import dataclasses
from pathlib import Path

import keras
import numpy as np

from parti_tf.config import EncoderDecoderConfig, PartiConfig, TextTokenizerConfig, VitConfig, VitVqganConfig
from parti_tf.data.text_tokenizer import train_text_tokenizer
from parti_tf.models.encoder_decoder import EncoderDecoder
from parti_tf.models.vit_vqgan import VitVqgan
from parti_tf.pipeline import TextToImage

TEXT_TOKENIZER = TextTokenizerConfig(vocab_size=32, max_length=16)
VIT = VitConfig(num_layers=1, model_dim=16, mlp_dim=32, num_heads=2, head_dim=8)
VIT_VQGAN = VitVqganConfig(VIT, VIT, image_size=16, patch_size=4, codebook_size=24, codebook_dim=4)
# 16 image tokens behind a window of 3: each cell sees itself and the offsets 1, 3, 4 and 5, from a ring of 6 slots.
ENCODER_DECODER = EncoderDecoderConfig(
    num_encoder_layers=1,
    num_decoder_layers=2,
    model_dim=16,
    mlp_dim=32,
    num_heads=2,
    text_vocab_size=32,
    text_length=16,
    codebook_size=24,
    grid_size=4,
    conv_window=3,
)
PARTI = PartiConfig(TEXT_TOKENIZER, VIT_VQGAN, ENCODER_DECODER)
CAPTIONS = tuple(
    f"a {colour} {thing}, in {style} style"
    for colour in ("red", "green", "blue", "yellow")
    for thing in ("heart", "tree", "house", "flower", "cake", "moon")
    for style in ("noto", "twemoji", "fluent")
)


def randomise(model: keras.Model, scale: float = 0.3, seed: int = 0) -> keras.Model:
    """Gives the built model with every weight drawn anew, so large that each of them matters."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        centre = 1.0 if variable.path.endswith("gamma") or variable.path.endswith("gain") else 0.0
        variable.assign(random.normal(centre, scale, variable.shape))
    return model


def tiny_transformer(seed: int = 0, **changes) -> EncoderDecoder:
    """Gives a random `EncoderDecoder` of the smallest config, some fields changed."""
    model = EncoderDecoder(dataclasses.replace(ENCODER_DECODER, **changes))
    model.build()
    return randomise(model, seed=seed)


def tiny_image_tokenizer(seed: int = 0, **changes) -> VitVqgan:
    """Gives a random `VitVqgan` of the smallest config, some fields changed."""
    model = VitVqgan(dataclasses.replace(VIT_VQGAN, **changes))
    model.build()
    return randomise(model, seed=seed)


def tiny_text_to_image(folder: Path) -> TextToImage:
    """Gives a random system with a text tokenizer that is trained in `folder`."""
    captions = folder / "captions.txt"
    captions.write_text("\n".join(CAPTIONS) + "\n")
    text_tokenizer = train_text_tokenizer(
        captions, folder / "sentencepiece.model", TEXT_TOKENIZER, character_coverage=1.0
    )
    return TextToImage(PARTI, text_tokenizer, tiny_image_tokenizer(), tiny_transformer())
