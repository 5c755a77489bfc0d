"""Emoji-3: three drawings of every emoji with its Unicode name as caption, built from npm packages.

A pair is the caption "LABEL, in STYLE style" and a square RGB picture on white. Labels and groups come from
Unicode CLDR through emojibase-data, the art from three icon sets. 10,705 labelled pictures become 10,675
pairs: of codes that a style draws alike, only the one with the shortest label stays. Five splits hold out
combinations whose parts all stay in training (`emoji3_splits.json`).
"""

import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import resvg_py
from PIL import Image
from tqdm import tqdm

from parti_tf.config import EmojiDataConfig
from parti_tf.data.examples import (
    ImageTextExample,
    count_examples,
    find_shards,
    read_examples,
    shard_path,
    write_shards,
)
from parti_tf.data.npm_packages import NpmPackage

TRAIN_SPLIT = "train"
SKIN_TONES = ("default", "light", "medium-light", "medium", "medium-dark", "dark")  # emojibase's 0 to 5
_COMPARED_SIZE = 64  # pixels; at one fixed size, so that the pairs do not depend on `image_size`

LABELS = NpmPackage(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
ICON_SETS = {  # by style
    "noto": NpmPackage(
        "@iconify-json/noto",
        "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "twemoji": NpmPackage(
        "@iconify-json/twemoji",
        "1.2.5",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    "fluent-flat": NpmPackage(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
}

NOTICE = """\
Emoji-3: rasterised emoji with their names. Pictures and names belong to others:

Noto Emoji. Copyright Google LLC. Apache License 2.0. https://github.com/googlefonts/noto-emoji
Twemoji. Copyright Twitter, Inc and other contributors. Graphics under CC-BY 4.0
  (https://creativecommons.org/licenses/by/4.0/). Changed: rasterised. https://github.com/jdecked/twemoji
Fluent Emoji. Copyright Microsoft Corporation. MIT License. https://github.com/microsoft/fluentui-emoji
emojibase-data. Copyright Miles Johnson. MIT License. https://github.com/milesj/emojibase
Unicode CLDR names and keywords. Copyright Unicode, Inc. Unicode License v3. https://www.unicode.org/license.txt
"""


@dataclasses.dataclass(frozen=True)
class _Emoji:
    """What Unicode says of one code."""

    label: str
    group: str
    subgroup: str
    tones: tuple[int, ...]
    tags: tuple[str, ...]


def build_emoji(config: EmojiDataConfig) -> dict[str, Any]:
    """Builds Emoji-3 from the pinned npm packages and gives its metadata.

    A dataset that is already there with the same options is left as it is. After an interruption the
    archives and the styles that were finished are kept.

    Raises:
      FileNotFoundError: npm is not installed.
      ConnectionError: npm could not get a package.
      ValueError: a package is not the pinned one, or `out` holds a dataset built with other options.
    """
    finished = _find_finished(config)
    if finished:
        return finished
    for package in tqdm([LABELS, *ICON_SETS.values()], desc="packages", unit="package"):
        package.download(config.downloads)
    return build_from_archives(config)


def build_from_archives(config: EmojiDataConfig) -> dict[str, Any]:
    """Builds Emoji-3 from archives that are already in `config.downloads` and gives its metadata.

    Everything is first written in a folder aside, which is kept after an interruption; `metadata.json`
    takes its final name last, so where it is, the dataset is whole.
    """
    aside = _folder_aside(config)
    emoji = _read_emoji(config)
    pictures, alike = [], 0
    for style in ICON_SETS:
        drawn = _draw_style(aside, style, emoji, config)
        kept = keep_plainest(drawn)
        alike += len(drawn) - len(kept)
        pictures += kept
    splits = assign_splits(pictures)
    for split, members in splits.items():
        random.Random(f"{config.seed} {split}").shuffle(members)
        write_shards(aside, split, members, config.num_shards if split == TRAIN_SPLIT else 1)
    _write_text_files(aside, splits[TRAIN_SPLIT], emoji)
    metadata = _describe(config, splits, alike)
    (aside / "metadata.json").write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _publish(aside, Path(config.out), list(splits))
    return metadata


def _read_emoji(config: EmojiDataConfig) -> dict[str, _Emoji]:
    """Gives what Unicode says of each code, but for the letters that flags are spelled with, which have no
    group, and for families, which are now one pictogram for all.
    """
    names = LABELS.read_json(config.downloads, "en/messages.json")
    groups, subgroups = ({entry["order"]: entry["key"] for entry in names[part]} for part in ("groups", "subgroups"))
    emoji = {}
    for base in LABELS.read_json(config.downloads, "en/data.json"):
        if "group" not in base or base["label"].startswith("family"):
            continue
        for entry in [base, *base.get("skins", [])]:
            tone = entry.get("tone", [])
            emoji[normalize_code(entry["hexcode"])] = _Emoji(
                label=entry["label"],
                group=groups[base["group"]],
                subgroup=subgroups[base["subgroup"]],
                tones=tuple(tone) if isinstance(tone, list) else (tone,),
                tags=tuple(base.get("tags", [])),
            )
    return emoji


def normalize_code(code: str) -> str:
    """Gives the code points of an emoji without FE0F and leading zeros: `0023-fe0f-20e3` -> `23-20E3`."""
    points = (point.upper().lstrip("0") for point in code.split("-"))
    return "-".join(point for point in points if point != "FE0F")


def _draw_style(aside: Path, style: str, emoji: dict[str, _Emoji], config: EmojiDataConfig) -> list[ImageTextExample]:
    stage = f"drawn_{style}"
    if not shard_path(aside, stage, 0, 1).exists():
        icons = ICON_SETS[style].read_json(config.downloads, "icons.json")
        names = ICON_SETS[style].read_json(config.downloads, "chars.json")
        codes = {normalize_code(code): name for code, name in names.items()}
        labelled = {code: _to_svg(icons, name) for code, name in codes.items() if code in emoji}
        progress = tqdm(labelled.items(), desc=style, unit="picture")
        write_shards(aside, stage, (_draw(style, code, emoji[code], svg, config.image_size) for code, svg in progress))
    return list(read_examples(find_shards(aside, stage)))


def _to_svg(icons: dict[str, Any], name: str) -> str:
    """Source: https://iconify.design/docs/types/iconify-json.html (a set's sizes are its icons' defaults)."""
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="1024" '
        f'height="1024" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def _draw(style: str, code: str, emoji: _Emoji, svg: str, image_size: int) -> ImageTextExample:
    try:
        picture = render_svg(svg, image_size)
        compared = picture if image_size == _COMPARED_SIZE else render_svg(svg, _COMPARED_SIZE)
    except ValueError as error:
        raise ValueError(f"{style}:{code} cannot be drawn: {error}") from None
    attributes = {
        "style": style,
        "code": code,
        "label": emoji.label,
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "tone": " ".join(SKIN_TONES[tone] for tone in emoji.tones),
        "fingerprint": hashlib.sha256(compared.tobytes()).hexdigest(),
    }
    png = io.BytesIO()
    picture.save(png, format="PNG")
    caption = write_caption(emoji.label, style)
    return ImageTextExample(f"{style}:{code}", caption, png.getvalue(), attributes=attributes)


def write_caption(label: str, style: str) -> str:
    """Gives the caption of a label in a style: `red heart`, `fluent-flat` -> `red heart, in fluent flat style`."""
    return f"{label}, in {style.replace('-', ' ')} style"


def render_svg(svg: str, size: int) -> Image.Image:
    """Gives an SVG as a square RGB picture of `size` pixels on white.

    Raises:
      ValueError: the text is no SVG.
    """
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(png))).convert("RGB")


def keep_plainest(drawn: Iterable[ImageTextExample]) -> list[ImageTextExample]:
    """Gives the examples whose picture is unlike every other, and of those drawn alike the one with the
    shortest label: `snowboarder` for all its skin tones, `flag: Spain` for `flag: Ceuta & Melilla`.
    """
    plainest: dict[str, ImageTextExample] = {}
    for example in sorted(drawn, key=lambda example: (len(example.attributes["label"]), example.id)):
        plainest.setdefault(example.attributes["fingerprint"], example)
    return sorted(plainest.values(), key=lambda example: example.id)


def read_held_out() -> dict[str, list[str]]:
    """Gives what each held-out split holds: labels, held out in every style, or ids of single pictures."""
    return json.loads(Path(__file__).with_name("emoji3_splits.json").read_text(encoding="utf-8"))


def assign_splits(examples: Iterable[ImageTextExample]) -> dict[str, list[ImageTextExample]]:
    """Gives the examples by split: `train` and the five that hold something out."""
    held_out = read_held_out()
    split_of = {name: split for split, names in held_out.items() for name in names}
    splits: dict[str, list[ImageTextExample]] = {split: [] for split in (TRAIN_SPLIT, *held_out)}
    for example in examples:
        by_label = split_of.get(example.attributes["label"])
        splits[by_label or split_of.get(example.id, TRAIN_SPLIT)].append(example)
    return splits


def _write_text_files(folder: Path, train: list[ImageTextExample], emoji: dict[str, _Emoji]) -> None:
    captions = sorted({example.caption for example in train})
    labels = sorted({example.attributes["label"] for example in train})
    codes = sorted({example.attributes["code"] for example in train})
    described = [", ".join([emoji[code].label, *emoji[code].tags]) for code in codes]
    tags = sorted({tag for code in codes for tag in emoji[code].tags})
    (folder / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    (folder / "text_corpus.txt").write_text("\n".join(captions + labels + described + tags) + "\n", encoding="utf-8")
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")


def _describe(config: EmojiDataConfig, splits: dict[str, list[ImageTextExample]], alike: int) -> dict[str, Any]:
    found = {name for members in splits.values() for one in members for name in (one.id, one.attributes["label"])}
    return {
        "name": "Emoji-3",
        "options": _options(config),
        "counts": {split: len(members) for split, members in splits.items()},
        "counts_by_style": {
            split: dict(sorted(Counter(example.attributes["style"] for example in members).items()))
            for split, members in splits.items()
        },
        "labels": len({example.attributes["label"] for members in splits.values() for example in members}),
        "dropped_as_drawn_alike": alike,
        "held_out_but_dropped": sorted(
            name for names in read_held_out().values() for name in names if name not in found
        ),
    }


def _options(config: EmojiDataConfig) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "num_shards": config.num_shards,
        "seed": config.seed,
        "packages": {str(package): package.integrity for package in [*ICON_SETS.values(), LABELS]},
        "renderer": f"resvg-py {importlib.metadata.version('resvg-py')}",
    }


def _find_finished(config: EmojiDataConfig) -> dict[str, Any] | None:
    path = Path(config.out) / "metadata.json"
    if not path.exists():
        return None
    metadata = json.loads(path.read_text(encoding="utf-8"))
    wanted, there = _options(config), metadata["options"]
    if there == wanted:
        return metadata if _is_whole(config.out, metadata["counts"]) else None
    if config.overwrite:
        return None
    changed = ", ".join(f"{name} {there.get(name)}" for name in wanted if there.get(name) != wanted[name])
    raise ValueError(f"{config.out} holds Emoji-3 built with {changed}; choose another folder, or overwrite it")


def _is_whole(folder: str, counts: dict[str, int]) -> bool:
    try:
        return all(count_examples(folder, split) == count for split, count in counts.items())
    except (FileNotFoundError, ValueError):
        return False


def _folder_aside(config: EmojiDataConfig) -> Path:
    """Gives the folder of the unfinished build, emptied if it was begun with other pictures in mind."""
    aside, options = Path(config.out) / "unfinished", _options(config)
    pictures = json.dumps({name: options[name] for name in ("image_size", "packages", "renderer")}, sort_keys=True)
    begun = aside / "options.json"
    if not begun.exists() or begun.read_text() != pictures:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        begun.write_text(pictures)
    return aside


def _publish(aside: Path, out: Path, splits: list[str]) -> None:
    (out / "metadata.json").unlink(missing_ok=True)
    for split in splits:
        finished = find_shards(aside, split)
        for path in set(out.glob(f"{split}-?????-of-?????.tfrecord")) - {out / shard.name for shard in finished}:
            path.unlink()
        for path in finished:
            os.replace(path, out / path.name)
    for name in ("captions.txt", "text_corpus.txt", "NOTICE", "metadata.json"):
        os.replace(aside / name, out / name)
    shutil.rmtree(aside)
