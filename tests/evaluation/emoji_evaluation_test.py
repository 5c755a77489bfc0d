import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

from parti_tf.config import (
    EncoderDecoderConfig,
    PartiConfig,
    SamplingConfig,
    SamplingOverrides,
    TextTokenizerConfig,
    VitConfig,
    VitVqganConfig,
)
from parti_tf.data.emoji import write_caption
from parti_tf.data.examples import ImageTextExample, write_shards
from parti_tf.data.text_tokenizer import train_text_tokenizer
from parti_tf.evaluation import emoji_evaluation, reconstruction
from parti_tf.evaluation.emoji_evaluation import draw_pictures, evaluate_text_to_image, format_figures, summarise
from parti_tf.evaluation.forced_choice import STYLES, TONES
from parti_tf.evaluation.gallery import Gallery, load_gallery
from parti_tf.evaluation.options import EvaluateTokenizerOptions, EvaluateTransformerOptions
from parti_tf.models.encoder_decoder import EncoderDecoder
from parti_tf.models.vit_vqgan import VitVqgan
from parti_tf.pipeline import TextToImage

SHADES = dict(
    zip(TONES, ((250, 220, 190), (230, 190, 150), (200, 150, 110), (150, 100, 70), (90, 60, 40)), strict=True)
)
BACKGROUNDS = dict(zip(STYLES, ("white", "lightblue", "lightyellow"), strict=True))


def _draw(gender: str, tone: str, style: str) -> ImageTextExample:
    picture = Image.new("RGB", (16, 16), BACKGROUNDS[style])
    draw = ImageDraw.Draw(picture)
    draw.rectangle((3, 5, 12, 14), fill=SHADES[tone])
    draw.rectangle((3, 1, 12, 4), fill="purple" if gender == "woman" else "green")
    png = io.BytesIO()
    picture.save(png, "PNG")
    label = f"{gender}: {tone} skin tone"
    attributes = {"label": label, "style": style}
    return ImageTextExample(f"{style}:{gender}-{tone}", write_caption(label, style), png.getvalue(), (), attributes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two genders, five tones and three styles; "man: dark skin tone" is held out."""
    folder = tmp_path_factory.mktemp("emoji")
    examples = [_draw(gender, tone, style) for gender in ("woman", "man") for tone in TONES for style in STYLES]
    held_out = [example for example in examples if "man-dark" in example.id and "woman" not in example.id]
    write_shards(folder, "train", [example for example in examples if example not in held_out], num_shards=2)
    write_shards(folder, "attr", held_out)
    return folder


@pytest.fixture(scope="module")
def gallery(folder) -> Gallery:
    return load_gallery(folder, 16)


class Lossless:
    """An image tokenizer with a token for every pixel's every channel."""

    def tokenize(self, images):
        return tf.cast(tf.round(tf.reshape(images, (tf.shape(images)[0], -1)) * 255), tf.int32)

    def detokenize(self, image_tokens):
        return tf.reshape(tf.cast(image_tokens, tf.float32) / 255, (-1, 16, 16, 3))


class Memory:
    """Draws what it has seen: the true picture under guidance, that of another tone without."""

    image_tokenizer = Lossless()

    def __init__(self, gallery: Gallery) -> None:
        self.pictures = dict(zip([example.caption for example in gallery.examples], gallery.images, strict=True))
        self.calls: list[dict] = []

    def generate(self, prompts, **options):
        self.calls.append({"prompts": prompts, **options})
        if options["guidance_scale"] == 1:
            prompts = [
                prompt.replace("medium-dark skin", "light skin").replace("dark skin", "medium skin")
                for prompt in prompts
            ]
        return np.stack([self.pictures[prompt] for prompt in prompts])[:, None]


def test_gallery_holds_every_picture(folder, gallery):
    assert gallery.images.shape == (30, 16, 16, 3)
    assert gallery.held_out_splits == ["attr"]
    assert sorted(gallery.examples[row].id for row in gallery.rows_of("attr")) == sorted(
        f"{style}:man-dark" for style in STYLES
    )
    row = next(row for row in range(30) if gallery.examples[row].id == "noto:man-light")
    assert tuple(gallery.images[row, 8, 8]) == SHADES["light"]
    assert load_gallery(folder, 8).images.shape == (30, 8, 8, 3)


def test_rows_are_drawn_by_seed_and_id(gallery):
    rows = gallery.rows_of("train")
    drawn = gallery.draw_rows(rows, 10, seed=0)
    assert len(np.unique(drawn)) == 10
    np.testing.assert_array_equal(drawn, gallery.draw_rows(rows[::-1], 10, seed=0))
    assert set(drawn) != set(gallery.draw_rows(rows, 10, seed=1))
    assert set(gallery.draw_rows(rows, 100, seed=0)) == set(rows)


def test_a_folder_without_held_out_splits_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no split; it must hold train and held-out splits"):
        load_gallery(tmp_path, 16)
    write_shards(tmp_path, "train", [_draw("man", "dark", "noto")])
    with pytest.raises(FileNotFoundError, match="holds train; it must hold train and held-out splits"):
        load_gallery(tmp_path, 16)


def test_figures_tell_right_pictures_from_wrong_ones(gallery, tmp_path):
    options = EvaluateTransformerOptions(
        pictures=str(tmp_path),
        num_train_captions=7,
        num_pictures=2,
        batch_size=4,
        feature_image_size=64,
    )
    figures = evaluate_text_to_image(Memory(gallery), gallery, SamplingConfig(2.0), options)
    assert {split: part["captions"] for split, part in figures.items()} == {"train": 7, "attr": 3}
    for kind in ("guided", "reconstructed"):
        for split in ("train", "attr"):
            assert figures[split][kind]["first_of_100"] == 1
            assert figures[split][kind]["first_of_100_in_style"] == 1
            assert figures[split][kind]["median_rank"] == 1
            assert all(answer["right"] == 1 for answer in figures[split][kind]["choices"].values())
    # Without guidance every held-out picture has a wrong tone and all else right.
    unguided = figures["attr"]["unguided"]
    assert unguided["first_of_100"] == 0
    assert unguided["median_rank"] > 1
    assert unguided["choices"] == {
        "tone": {"asked": 3, "right": 0},
        "gender": {"asked": 3, "right": 1},
        "style": {"asked": 3, "right": 1},
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attr.png", "train.png"]
    lines = format_figures(figures).splitlines()
    assert len(lines) == 2 + 2 * 3
    assert lines[6].split()[:9] == ["attr", "unguided", "3", "0", "%", "0", "%", "0", "%"]


def test_each_option_reaches_the_drawing(gallery):
    memory = Memory(gallery)
    captions = [example.caption for example in gallery.examples[:5]]
    sampling = SamplingConfig(guidance_scale=3.0, temperature=0.5, top_k=7, top_p=0.9)
    pictures = draw_pictures(memory, captions, sampling, seed=40, batch_size=3)
    np.testing.assert_array_equal(pictures, gallery.images[:5])
    shared = {"num_samples": 1, "batch_size": 3, "guidance_scale": 3.0, "temperature": 0.5, "top_k": 7, "top_p": 0.9}
    assert memory.calls == [
        {"prompts": captions[:3], "seed": 40, **shared},
        {"prompts": [*captions[3:], captions[4]], "seed": 43, **shared},  # filled up to one batch size
    ]


def test_summary_by_hand():
    found = [
        {"first_of_100": 1, "first_of_100_in_style": 1, "tone": True},
        {"first_of_100": 1, "first_of_100_in_style": 4, "tone": False, "gender": True},
        {"first_of_100": 9, "first_of_100_in_style": 20},
        {"first_of_100": 30, "first_of_100_in_style": 50, "tone": True},
    ]
    assert summarise(found) == {
        "first_of_100": 0.5,
        "first_of_100_in_style": 0.25,
        "median_rank": 5.0,  # between 1 and 9
        "choices": {"tone": {"asked": 3, "right": 2 / 3}, "gender": {"asked": 1, "right": 1.0}},
    }


@pytest.fixture(scope="module")
def preset(gallery, tmp_path_factory):
    """The smallest whole system, untrained."""
    folder = tmp_path_factory.mktemp("preset")
    (folder / "captions.txt").write_text("\n".join(example.caption for example in gallery.examples))
    text = TextTokenizerConfig(vocab_size=32, max_length=48)
    side = VitConfig(num_layers=1, model_dim=8, mlp_dim=8, num_heads=1, head_dim=8)
    image = VitVqganConfig(side, side, image_size=16, patch_size=8, codebook_size=16, codebook_dim=4)
    transformer = EncoderDecoderConfig(1, 1, 8, 8, 1, text_vocab_size=32, text_length=48, codebook_size=16, grid_size=2)
    models = VitVqgan(image), EncoderDecoder(transformer)
    for model in models:
        model.build()
    text_tokenizer = train_text_tokenizer(folder / "captions.txt", folder / "trained.model", text)
    TextToImage(
        PartiConfig(text, image, transformer, SamplingConfig(guidance_scale=4.0)), text_tokenizer, *models
    ).save_to_preset(folder)
    return folder


def test_commands_write_figures_and_print_a_table(preset, folder, tmp_path, capsys):
    shared: dict[str, Any] = {
        "preset": str(preset),
        "data": str(folder),
        "results": str(tmp_path),
        "pictures": str(tmp_path),
    }
    figures = reconstruction.run(EvaluateTokenizerOptions(**shared))
    written = json.loads((tmp_path / "image_tokenizer.json").read_text())
    assert written["splits"]["unseen"]["images"] == 3
    assert written["splits"]["attr"]["psnr"] == pytest.approx(figures["splits"]["attr"]["psnr"], abs=1e-4)
    assert written["options"]["preset"] == str(preset)
    assert f"{figures['splits']['unseen']['psnr']:.2f}" in capsys.readouterr().out

    options = EvaluateTransformerOptions(
        **shared, num_train_captions=5, batch_size=2, feature_image_size=32, sampling=SamplingOverrides(top_k=3)
    )
    emoji_evaluation.run(options)
    written = json.loads((tmp_path / "text_to_image.json").read_text())
    assert written["splits"]["train"]["captions"] == 5
    assert written["options"]["sampling"] == dataclasses.asdict(SamplingConfig(guidance_scale=4.0, top_k=3))
    assert set(written["splits"]["attr"]) == {"captions", "guided", "unguided", "reconstructed"}
    assert "unguided" in capsys.readouterr().out


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match=r"EvaluateTransformerOptions\.num_train_captions is 0"):
        EvaluateTransformerOptions(num_train_captions=0)
    with pytest.raises(ValueError, match=r"num_held_out_captions is -1; it must be at least 0"):
        EvaluateTransformerOptions(num_held_out_captions=-1)
    with pytest.raises(ValueError, match=r"feature_image_size is 16; it must be at least 32"):
        EvaluateTransformerOptions(feature_image_size=16)
    with pytest.raises(ValueError, match="temperature is 0"):
        EvaluateTransformerOptions(sampling=SamplingOverrides(temperature=0))
