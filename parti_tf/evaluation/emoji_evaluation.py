"""How well captions become pictures, on Emoji-3: ranks and forced choices for train and held-out captions.

Ours. One picture is drawn of each caption, with guidance and without. The image tokenizer's own reconstruction
of the true image is scored beside them: no Transformer that speaks through this tokenizer can do better by much.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from parti_tf.config import SamplingConfig
from parti_tf.data.emoji import TRAIN_SPLIT
from parti_tf.data.image_files import labelled_grid, write_png
from parti_tf.evaluation.forced_choice import QUESTIONS, ForcedChoices, is_nearest
from parti_tf.evaluation.gallery import Gallery, load_gallery
from parti_tf.evaluation.options import EvaluateTransformerOptions
from parti_tf.evaluation.ranking import NUM_CANDIDATES, ImageFeatures, draw_distractors, rank_of_true
from parti_tf.evaluation.reconstruction import ImageTokenizer, reconstruct
from parti_tf.evaluation.report import format_table, write_json
from parti_tf.pipeline import TextToImage

GUIDED, UNGUIDED, RECONSTRUCTED = "guided", "unguided", "reconstructed"
FIRST_OF_100, FIRST_IN_STYLE = "first_of_100", "first_of_100_in_style"


class CaptionsToPictures(Protocol):
    """What is asked of a text-to-image system here; see `TextToImage`."""

    @property
    def image_tokenizer(self) -> ImageTokenizer: ...

    def generate(
        self,
        prompts: Sequence[str],
        *,
        num_samples: int,
        guidance_scale: float,
        temperature: float,
        top_k: int,
        top_p: float,
        seed: int,
        batch_size: int,
    ) -> np.ndarray: ...


def draw_pictures(
    text_to_image: CaptionsToPictures, captions: Sequence[str], sampling: SamplingConfig, seed: int, batch_size: int
) -> np.ndarray:
    """Gives one picture of each caption, uint8 [captions, height, width, 3], with a progress bar.

    Every batch has a seed of its own, since the same seed means the same random draws for every caption. The
    last batch is filled up with its last caption, so that one batch size is compiled.
    """
    pictures = []
    description = f"pictures, guidance {sampling.guidance_scale:g}"
    for start in tqdm(range(0, len(captions), batch_size), desc=description, unit="batch"):
        batch = list(captions[start : start + batch_size])
        filled = batch + batch[-1:] * (batch_size - len(batch))
        images = text_to_image.generate(
            filled, num_samples=1, seed=seed + start, batch_size=batch_size, **dataclasses.asdict(sampling)
        )
        pictures.append(images[: len(batch), 0])
    return np.concatenate(pictures)


class Scores:
    """Scores pictures of a dataset's captions against the dataset's own pictures.

    Args:
      gallery: all pictures of the dataset, of every split.
      rows: those whose captions pictures are drawn of.
      image_features: gives the features by which candidates are ranked.
      seed: decides the distractors.
    """

    def __init__(self, gallery: Gallery, rows: np.ndarray, image_features: ImageFeatures, seed: int) -> None:
        self._gallery, self._image_features = gallery, image_features
        self._choices = ForcedChoices(gallery.examples)
        styles = np.array([example.attributes["style"] for example in gallery.examples])
        self._distractors: dict[str, dict[int, np.ndarray]] = {FIRST_OF_100: {}, FIRST_IN_STYLE: {}}
        for row in rows:
            pools = {FIRST_OF_100: np.arange(len(styles)), FIRST_IN_STYLE: np.flatnonzero(styles == styles[row])}
            for name, pool in pools.items():
                self._distractors[name][row] = draw_distractors(row, pool, gallery.examples[row].id, seed)
        drawn = [distractors for by_row in self._distractors.values() for distractors in by_row.values()]
        candidates = np.unique(np.concatenate([rows, *drawn]))
        features = self._image_features(gallery.images[candidates])
        self._features = dict(zip(candidates.tolist(), features, strict=True))

    def score(self, rows: np.ndarray, pictures: np.ndarray) -> list[dict[str, Any]]:
        """Gives what was found of each picture.

        Args:
          rows: the rows whose captions the pictures are of, int64 [count].
          pictures: uint8 [count, height, width, 3].

        Returns:
          For each picture the rank of the true image among 100 of all pictures, "first_of_100", and of those of
          its style, "first_of_100_in_style"; and for each question that it is asked whether it is right.
        """
        parts = zip(rows, pictures, self._image_features(pictures), strict=True)
        return [self._score_one(*part) for part in parts]

    def _score_one(self, row: int, picture: np.ndarray, features: np.ndarray) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, distractors in self._distractors.items():
            candidates = np.stack([self._features[other] for other in distractors[row]])
            found[name] = rank_of_true(features, self._features[row], candidates)
        images = self._gallery.images
        for question, variants in self._choices.questions(row).items():
            found[question] = is_nearest(picture, images[row], images[variants[variants != row]])
        return found


def summarise(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gives the figures of a split from what was found of each of its pictures.

    Returns:
      The share of pictures whose true image ranks first, under `first_of_100` and `first_of_100_in_style`; the
      median of the former's ranks; and under `choices` for each question how many pictures were `asked` it and
      the share that is `right`.
    """
    figures: dict[str, Any] = {
        name: float(np.mean([each[name] == 1 for each in found])) for name in (FIRST_OF_100, FIRST_IN_STYLE)
    }
    figures["median_rank"] = float(np.median([each[FIRST_OF_100] for each in found]))
    answers = {question: [each[question] for each in found if question in each] for question in QUESTIONS}
    figures["choices"] = {
        question: {"asked": len(answer), "right": float(np.mean(answer))}
        for question, answer in answers.items()
        if answer
    }
    return figures


def evaluate_text_to_image(
    text_to_image: CaptionsToPictures, gallery: Gallery, sampling: SamplingConfig, options: EvaluateTransformerOptions
) -> dict[str, dict[str, Any]]:
    """Gives the figures of the train captions and of every held-out split, for each kind of picture.

    Writes a contact sheet `SPLIT.png` for each split.

    Args:
      text_to_image: draws the pictures.
      gallery: all pictures of the dataset.
      sampling: how the guided pictures are drawn; the unguided ones have a guidance scale of 1.
      options: all else; its own `sampling` is not looked at.

    Returns:
      split -> `captions`, their number, and `guided`, `unguided` and `reconstructed`, what `summarise` gives.
    """
    rows = {TRAIN_SPLIT: gallery.draw_rows(gallery.rows_of(TRAIN_SPLIT), options.num_train_captions, options.seed)}
    for split in gallery.held_out_splits:
        members = gallery.rows_of(split)
        rows[split] = gallery.draw_rows(members, options.num_held_out_captions or len(members), options.seed)
    every_row = np.concatenate(list(rows.values()))
    captions = [gallery.examples[row].caption for row in every_row]
    unguided = dataclasses.replace(sampling, guidance_scale=1.0)
    pictures = {
        kind: draw_pictures(text_to_image, captions, way, options.seed, options.batch_size)
        for kind, way in ((GUIDED, sampling), (UNGUIDED, unguided))
    }
    _, pictures[RECONSTRUCTED] = reconstruct(
        text_to_image.image_tokenizer, gallery.images[every_row], options.batch_size
    )
    image_features = ImageFeatures(options.feature_image_size, options.batch_size)
    scores = Scores(gallery, every_row, image_features, options.seed)
    found = {kind: scores.score(every_row, images) for kind, images in pictures.items()}
    figures, start = {}, 0
    for split, members in rows.items():
        part = slice(start, start + len(members))
        figures[split] = {"captions": len(members), **{kind: summarise(found[kind][part]) for kind in found}}
        shown = slice(start, start + min(len(members), options.num_pictures))
        write_contact_sheet(options.pictures, split, gallery, every_row[shown], pictures[GUIDED][shown])
        start = part.stop
    return figures


def write_contact_sheet(
    folder: str | Path, split: str, gallery: Gallery, rows: np.ndarray, pictures: np.ndarray
) -> Path:
    """Writes `SPLIT.png`, four captions in a row, each with the true image and the generated one; gives its path."""
    pairs = np.stack([gallery.images[rows], pictures], axis=1).reshape(-1, *pictures.shape[1:])
    labels = [gallery.examples[row].caption for row in rows for _ in range(2)]
    return write_png(Path(folder) / f"{split}.png", labelled_grid(pairs, labels, columns=8))


def format_figures(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Gives the figures as a table in percent, for each forced choice with the number of pictures asked."""
    header = ["split", "pictures", "captions", f"first of {NUM_CANDIDATES}", "in style", *QUESTIONS]
    rows = []
    for split, figures in splits.items():
        for kind in (GUIDED, UNGUIDED, RECONSTRUCTED):
            part = figures[kind]
            cells: list[Any] = [f"{100 * part[name]:.0f} %" for name in (FIRST_OF_100, FIRST_IN_STYLE)]
            for question in QUESTIONS:
                answer = part["choices"].get(question)
                cells.append(f"{100 * answer['right']:.0f} % of {answer['asked']}" if answer else None)
            rows.append([split, kind, figures["captions"], *cells])
    return format_table(header, rows)


def run(options: EvaluateTransformerOptions) -> dict[str, Any]:
    """Evaluates a preset on Emoji-3: prints a table, writes `text_to_image.json` and gives its content.

    Raises:
      FileNotFoundError: the preset, the data or MobileNetV2's weights are missing.
      ValueError: one of them is damaged.
    """
    text_to_image = TextToImage.from_preset(options.preset, jit_compile=True)
    sampling = options.sampling.over(text_to_image.config.sampling)
    gallery = load_gallery(options.data, text_to_image.config.image_tokenizer.image_size)
    splits = evaluate_text_to_image(text_to_image, gallery, sampling, options)
    settings = {**dataclasses.asdict(options), "sampling": dataclasses.asdict(sampling)}
    print(format_figures(splits))
    figures = {"options": settings, "features": "MobileNetV2, pooled", "splits": splits}
    write_json(Path(options.results) / "text_to_image.json", figures)
    return figures
