import dataclasses
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from parti_tf.config import EmojiDataConfig
from parti_tf.data.emoji import (
    ICON_SETS,
    LABELS,
    assign_splits,
    build_emoji,
    build_from_archives,
    keep_plainest,
    normalize_code,
    read_held_out,
    render_svg,
    write_caption,
)
from parti_tf.data.examples import ImageTextExample, find_shards, find_splits, read_examples

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")


def _base(label, code, group=0, tags=(), tones=()):
    skins = [
        {"label": f"{label}: {TONES[tone - 1]} skin tone", "hexcode": f"{code}-1F3F{chr(65 + tone)}", "tone": tone}
        for tone in tones
    ]
    return {"label": label, "hexcode": code, "group": group, "subgroup": 1, "tags": list(tags), "skins": skins}


DATA = [
    {"label": "regional indicator A", "hexcode": "1F1E6"},
    _base("family: man, boy", "1F468-200D-1F466"),
    _base("red heart", "2764-FE0F", tags=["love"]),
    _base("green heart", "1F49A"),  # held out by colour_shape
    _base("keycap: #", "0023-FE0F-20E3"),
    _base("NEW button", "1F195"),  # held out in fluent-flat alone
    _base("snowboarder", "1F3C2", group=1, tones=(1, 5)),
    _base("man astronaut", "1F468", group=1, tones=(1, 5)),  # dark is held out by attr
]
MESSAGES = {
    "groups": [{"order": 0, "key": "symbols"}, {"order": 1, "key": "people-body"}],
    "subgroups": [{"order": 1, "key": "some"}],
}
LEFT_HALF = '<path fill="#f00" d="M0 0H8V16H0Z"/>'  # a red left half, so that mirrored art would show


def _disc(colour):
    return {"body": f'<circle cx="8" cy="8" r="7" fill="{colour}"/>'}


def _icon_set(shade):
    chars = {
        "1f1e6": "letter",
        "1f468-200d-1f466": "family",
        "2764": "heart",
        "1f49a": "green",
        "23-20e3": "hash",
        "1f195": "new",
        "1f3c2": "snow",
        "1f3c2-1f3fb": "snow",  # tones drawn alike
        "1f3c2-1f3ff": "snow",
        "1f468": "man",
        "1f468-1f3fb": "man-light",
        "1f468-1f3ff": "man-dark",
        "1f999": "unlabelled",
    }
    icons = {
        "letter": _disc("#111"),
        "family": _disc("#222"),
        "heart": {"body": LEFT_HALF},
        "green": _disc(f"#0{shade}0"),
        "hash": {"body": '<path fill="#00f" d="M0 0H16V32H0Z"/>', "height": 32},  # twice as high as wide
        "new": _disc(f"#00{shade}"),
        "snow": _disc("#777"),
        "man": _disc("#fc0"),
        "man-light": _disc("#fed"),
        "man-dark": _disc("#321"),
        "unlabelled": _disc("#abc"),
    }
    return {"chars.json": chars, "icons.json": {"width": 16, "height": 16, "icons": icons}}


def _write_archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def config(tmp_path):
    """A configuration whose archives hold three small icon sets of real SVGs."""
    config = EmojiDataConfig(out=str(tmp_path / "emoji"), downloads=str(tmp_path / "downloads"), num_shards=2)
    _write_archive(LABELS.archive_path(config.downloads), {"en/data.json": DATA, "en/messages.json": MESSAGES})
    for shade, package in zip("abc", ICON_SETS.values(), strict=True):
        _write_archive(package.archive_path(config.downloads), _icon_set(shade))
    return config


def _read(config, split="train"):
    return {example.id: example for example in read_examples(find_shards(config.out, split))}


def _pixels(example):
    return np.asarray(Image.open(io.BytesIO(example.image)))


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_builds_captions_pictures_and_attributes(config):
    build_from_archives(config)
    heart = _read(config)["fluent-flat:2764"]
    assert heart.caption == "red heart, in fluent flat style"
    attributes = dict(heart.attributes)
    assert len(attributes.pop("fingerprint")) == 64
    assert attributes == {
        "style": "fluent-flat",
        "code": "2764",
        "label": "red heart",
        "group": "symbols",
        "subgroup": "some",
        "tone": "",
    }
    assert _read(config)["noto:1F468-1F3FB"].attributes["tone"] == "light"


def test_pictures_are_square_upright_and_on_white(config):
    build_from_archives(config)
    heart = _pixels(_read(config)["noto:2764"])
    assert heart.shape == (64, 64, 3)
    assert (heart[:, :32] == (255, 0, 0)).all()
    assert (heart[:, 32:] == (255, 255, 255)).all()
    tall = _pixels(_read(config)["noto:23-20E3"])
    assert (tall[:, 16:48] == (0, 0, 255)).all()  # whole, in the middle, not stretched
    assert (tall[:, :16] == 255).all()
    assert (tall[:, 48:] == 255).all()


def test_drops_families_letters_and_what_is_drawn_alike(config):
    metadata = build_from_archives(config)
    codes = {example.split(":")[1] for split in find_splits(config.out) for example in _read(config, split)}
    assert codes == {"2764", "1F49A", "23-20E3", "1F195", "1F3C2", "1F468", "1F468-1F3FB", "1F468-1F3FF"}
    assert metadata["dropped_as_drawn_alike"] == 3 * 2
    assert metadata["labels"] == len(codes)


def test_held_out_pictures_are_in_their_splits_alone(config):
    metadata = build_from_archives(config)
    assert set(_read(config, "colour_shape")) == {f"{style}:1F49A" for style in ICON_SETS}
    assert set(_read(config, "attr")) == {f"{style}:1F468-1F3FF" for style in ICON_SETS}
    assert set(_read(config, "style")) == {"fluent-flat:1F195"}
    assert _read(config, "facing") == _read(config, "two_tone") == {}
    train = _read(config)
    assert len(train) == 3 * 8 - 7 == metadata["counts"]["train"]
    assert "noto:1F195" in train
    assert metadata["counts_by_style"]["train"] == {"fluent-flat": 5, "noto": 6, "twemoji": 6}
    assert "blue square" in metadata["held_out_but_dropped"]
    assert "green heart" not in metadata["held_out_but_dropped"]


def test_text_files_hold_training_captions_only(config, tmp_path):
    build_from_archives(config)
    captions = (tmp_path / "emoji/captions.txt").read_text().splitlines()
    assert sorted(captions) == sorted(example.caption for example in _read(config).values())
    corpus = (tmp_path / "emoji/text_corpus.txt").read_text().splitlines()
    assert {"red heart, love", "love", "red heart", *captions} <= set(corpus)
    assert not any("green heart" in line for line in corpus)
    assert "CC-BY 4.0" in (tmp_path / "emoji/NOTICE").read_text()


def test_metadata_tells_how_it_was_built(config, tmp_path):
    metadata = build_from_archives(config)
    assert json.loads((tmp_path / "emoji/metadata.json").read_text()) == metadata
    assert metadata["options"]["image_size"] == 64
    assert metadata["options"]["packages"]["emojibase-data@17.0.0"] == LABELS.integrity
    assert not (tmp_path / "emoji/unfinished").exists()


def test_building_twice_gives_the_same_files(config, tmp_path):
    build_from_archives(config)
    first = _files(tmp_path / "emoji")
    build_from_archives(dataclasses.replace(config, out=str(tmp_path / "again")))
    assert _files(tmp_path / "again") == first


def test_options_change_the_records(config, tmp_path):
    build_from_archives(config)
    plain = list(_read(config))
    other = dataclasses.replace(config, out=str(tmp_path / "other"), image_size=24, num_shards=1, seed=3)
    build_from_archives(other)
    assert _pixels(_read(other)["noto:2764"]).shape == (24, 24, 3)
    assert len(find_shards(other.out, "train")) == 1
    assert sorted(_read(other)) == sorted(plain)
    assert list(_read(other)) != plain
    assert _read(other)["noto:2764"].attributes == _read(config)["noto:2764"].attributes


def test_finished_dataset_is_left_alone_unless_overwritten(config, tmp_path):
    metadata = build_from_archives(config)
    before = _files(tmp_path / "emoji")
    for path in (tmp_path / "downloads").iterdir():
        path.rename(path.with_suffix(".gone"))
    assert build_emoji(config) == metadata  # needs neither archives nor npm
    assert _files(tmp_path / "emoji") == before
    larger = dataclasses.replace(config, image_size=128, num_shards=3)
    with pytest.raises(ValueError, match=r"holds Emoji-3 built with image_size 64, num_shards 2; choose another"):
        build_emoji(larger)
    for path in (tmp_path / "downloads").iterdir():
        path.rename(path.with_suffix(".tgz"))
    with pytest.raises(ValueError, match="is pinned to"):  # it goes on, to find that these are not the real archives
        build_emoji(dataclasses.replace(larger, overwrite=True))
    assert _files(tmp_path / "emoji") == before
    _write_archive(LABELS.archive_path(config.downloads), {"en/data.json": DATA, "en/messages.json": MESSAGES})
    build_from_archives(dataclasses.replace(larger, overwrite=True))
    assert len(find_shards(config.out, "train")) == 3
    assert _pixels(_read(config)["noto:2764"]).shape == (128, 128, 3)


def test_damaged_dataset_is_built_again(config):
    build_from_archives(config)
    find_shards(config.out, "train")[0].unlink()
    with pytest.raises(ValueError, match="is pinned to"):
        build_emoji(config)


def test_interrupted_build_shows_nothing_and_keeps_finished_styles(config, tmp_path):
    twemoji, noto = (ICON_SETS[style].archive_path(config.downloads) for style in ("twemoji", "noto"))
    whole = twemoji.read_bytes()
    broken = _icon_set("b")
    broken["icons.json"]["icons"]["new"] = {"body": "<unclosed"}
    _write_archive(twemoji, broken)
    with pytest.raises(ValueError, match="twemoji:1F195 cannot be drawn: "):
        build_from_archives(config)
    assert [path.name for path in (tmp_path / "emoji").iterdir()] == ["unfinished"]
    twemoji.write_bytes(whole)
    noto.unlink()  # no longer needed: that style was finished
    with pytest.raises(FileNotFoundError, match="noto"):  # but is, for pictures of another size
        build_from_archives(dataclasses.replace(config, out=config.out, image_size=32))
    assert [path.name for path in (tmp_path / "emoji").iterdir()] == ["unfinished"]


def test_resumed_build_equals_an_uninterrupted_one(config, tmp_path):
    build_from_archives(dataclasses.replace(config, out=str(tmp_path / "whole")))
    twemoji, noto = (ICON_SETS[style].archive_path(config.downloads) for style in ("twemoji", "noto"))
    twemoji.rename(tmp_path / "held_back.tgz")
    with pytest.raises(FileNotFoundError, match="twemoji"):
        build_from_archives(config)
    (tmp_path / "held_back.tgz").rename(twemoji)
    noto.unlink()  # that style was finished
    build_from_archives(config)
    assert _files(tmp_path / "emoji") == _files(tmp_path / "whole")


def test_without_npm_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    config = EmojiDataConfig(out=str(tmp_path / "emoji"), downloads=str(tmp_path / "downloads"))
    with pytest.raises(FileNotFoundError, match="npm is not installed"):
        build_emoji(config)
    assert not list(tmp_path.iterdir())


def test_codes_and_captions():
    assert normalize_code("0023-fe0f-20e3") == "23-20E3"
    assert normalize_code("1f468-200D-2764-FE0F") == "1F468-200D-2764"
    assert write_caption("red heart", "fluent-flat") == "red heart, in fluent flat style"
    assert write_caption("red heart", "noto") == "red heart, in noto style"


def test_of_pictures_drawn_alike_the_shortest_label_stays():
    def drawn(label, fingerprint):
        return ImageTextExample(label, label, attributes={"label": label, "fingerprint": fingerprint})

    kept = keep_plainest([drawn("flag: Ceuta & Melilla", "1"), drawn("flag: Spain", "1"), drawn("flag: France", "2")])
    assert [example.id for example in kept] == ["flag: France", "flag: Spain"]


def test_held_out_lists_are_the_published_ones():
    held_out = read_held_out()
    assert {split: len(names) for split, names in held_out.items()} == {
        "attr": 140,
        "two_tone": 47,
        "facing": 18,
        "colour_shape": 7,
        "style": 305,
    }
    names = [name for members in held_out.values() for name in members]
    assert len(set(names)) == len(names)
    assert set(assign_splits([])) == {"train", *held_out}


def test_rendering_refuses_what_is_no_svg():
    with pytest.raises(ValueError, match="unknown token"):
        render_svg("no svg", 16)
