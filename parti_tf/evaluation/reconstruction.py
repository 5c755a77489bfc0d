"""How well the image tokenizer keeps unseen images: PSNR, codebook usage, codebook perplexity (ViT-VQGAN 5.1)."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from parti_tf.data.image_files import labelled_grid, write_png
from parti_tf.evaluation.gallery import Gallery, load_gallery, map_images
from parti_tf.evaluation.options import EvaluateTokenizerOptions
from parti_tf.evaluation.report import format_table, write_json
from parti_tf.pipeline import TextToImage

UNSEEN = "unseen"  # the images drawn from all held-out splits


class ImageTokenizer(Protocol):
    """What is asked of a tokenizer here; see `VitVqgan`."""

    def tokenize(self, images: Any) -> Any: ...

    def detokenize(self, image_tokens: Any) -> Any: ...


class CodebookUse(NamedTuple):
    """How much of the codebook a set of images uses.

    Attributes:
      usage: share of the codes used at least once, in [0, 1].
      perplexity: 2 to the entropy in bits of how often each code is used, in [1, codebook_size].
    """

    usage: float
    perplexity: float


def peak_signal_to_noise_ratio(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Gives PSNR in dB against a peak of 255, float64 [count]: of each image by itself, over pixels and channels.

    The field's figure for a set is the mean of these, not the PSNR of the mean error. Equal images get 100 dB.

    Args:
      images, reconstructions: uint8 [count, height, width, 3].
    """
    error = np.mean(np.square((images.astype(np.float64) - reconstructions) / 255.0), axis=(1, 2, 3))
    return -10.0 * np.log10(np.maximum(error, 1e-10))


def measure_codebook_use(image_tokens: np.ndarray, codebook_size: int) -> CodebookUse:
    """Gives codebook usage and perplexity over image tokens, int [any shape]."""
    counts = np.bincount(image_tokens.reshape(-1), minlength=codebook_size)
    share = counts[counts > 0] / counts.sum()
    return CodebookUse(float(np.mean(counts > 0)), float(2.0 ** -np.sum(share * np.log2(share))))


def reconstruct(tokenizer: ImageTokenizer, images: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Gives the tokens of images and the images that the detokenizer makes of them.

    Args:
      images: uint8 [count, height, width, 3].
      batch_size: images at a time.

    Returns:
      int32 [count, tokens] and uint8 [count, height, width, 3].
    """

    @tf.function
    def there_and_back(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tokens = tokenizer.tokenize(batch)
        pictures = tf.clip_by_value(tokenizer.detokenize(tokens), 0.0, 1.0)
        return tokens, tf.cast(tf.round(pictures * 255.0), tf.uint8)

    tokens, reconstructions = map_images(there_and_back, images, batch_size, "reconstructions")
    return tokens, reconstructions


def evaluate_image_tokenizer(
    tokenizer: ImageTokenizer, codebook_size: int, gallery: Gallery, options: EvaluateTokenizerOptions
) -> dict[str, dict[str, Any]]:
    """Gives PSNR, codebook usage and perplexity of the unseen images together and of each held-out split.

    Writes the contact sheet `reconstructions.png`: originals, each with its reconstruction beside it.

    Returns:
      "unseen" or split -> `images`, `psnr`, `codebook_usage`, `codebook_perplexity`.
    """
    groups = {split: gallery.rows_of(split) for split in gallery.held_out_splits}
    unseen = np.concatenate(list(groups.values()))
    groups = {UNSEEN: gallery.draw_rows(unseen, options.num_images, options.seed), **groups}
    tokens, reconstructions = reconstruct(tokenizer, gallery.images[unseen], options.batch_size)
    psnr = peak_signal_to_noise_ratio(gallery.images[unseen], reconstructions)
    position = {row: index for index, row in enumerate(unseen)}
    figures: dict[str, dict[str, Any]] = {}
    for name, rows in groups.items():
        members = [position[row] for row in rows]
        use = measure_codebook_use(tokens[members], codebook_size)
        figures[name] = {
            "images": len(members),
            "psnr": float(np.mean(psnr[members])),
            "codebook_usage": use.usage,
            "codebook_perplexity": use.perplexity,
        }
    shown = groups[UNSEEN][: options.num_pictures]
    pictures = reconstructions[[position[row] for row in shown]]
    write_contact_sheet(options.pictures, gallery.images[shown], pictures)
    return figures


def write_contact_sheet(folder: str | Path, images: np.ndarray, reconstructions: np.ndarray) -> Path:
    """Writes `reconstructions.png`, eight images in a row, each followed by its reconstruction; gives its path."""
    pairs = np.stack([images, reconstructions], axis=1).reshape(-1, *images.shape[1:])
    sheet = labelled_grid(pairs, ["original", "tokenized"] * len(images), columns=8)
    return write_png(Path(folder) / "reconstructions.png", sheet)


def run(options: EvaluateTokenizerOptions) -> dict[str, Any]:
    """Evaluates a preset's image tokenizer: prints a table, writes `image_tokenizer.json` and gives its content.

    Raises:
      FileNotFoundError: the preset or the data is missing.
      ValueError: one of them is damaged.
    """
    preset = TextToImage.from_preset(options.preset)
    config = preset.config.image_tokenizer
    gallery = load_gallery(options.data, config.image_size)
    splits = evaluate_image_tokenizer(preset.image_tokenizer, config.codebook_size, gallery, options)
    figures = {"options": dataclasses.asdict(options), "codebook_size": config.codebook_size, "splits": splits}
    rows = [[name, *values.values()] for name, values in splits.items()]
    print(format_table(("split", "images", "PSNR (dB)", "codebook usage", "perplexity"), rows))
    write_json(Path(options.results) / "image_tokenizer.json", figures)
    return figures
