"""Whether a picture has the attributes its caption names: forced choices between true variants of it.

Ours. A question lists the pictures that differ from the true one in a single attribute, itself included. The
answer is right when, of these, the true one is nearest to the generated picture by pixel distance. A question
is asked only where the dataset holds all of its variants, so chance is one in their number.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from parti_tf.data.emoji import ICON_SETS, SKIN_TONES
from parti_tf.data.examples import ImageTextExample

Variant = tuple[str, str]  # label, style

TONES = SKIN_TONES[1:]
STYLES = tuple(ICON_SETS)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown")
_OTHER_GENDER = {"man": "woman", "woman": "man", "men": "women", "women": "men"}

_TONE = re.compile(rf"(?<![\w-])(?:{'|'.join(TONES)})(?= skin tone)")
_COLOUR = re.compile(rf"\b(?:{'|'.join(COLOURS)})\b")
_GENDER = re.compile(rf"\b(?:{'|'.join(_OTHER_GENDER)})\b")
_FACING_RIGHT = re.compile(r"[:,] facing right$")


def _vary_tone(label: str, style: str) -> list[Variant]:
    if len(_TONE.findall(label)) != 1:
        return []
    return [(_TONE.sub(tone, label), style) for tone in TONES]


def _vary_tone_pair(label: str, style: str) -> list[Variant]:
    pieces = _TONE.split(label)
    if len(pieces) != 3:
        return []
    first, second, third = pieces
    return [(f"{first}{one}{second}{other}{third}", style) for one, other in itertools.permutations(TONES, 2)]


def _vary_gender(label: str, style: str) -> list[Variant]:
    other = _GENDER.sub(lambda match: _OTHER_GENDER[match[0]], label)
    return [(label, style), (other, style)] if other != label else []


def _vary_direction(label: str, style: str) -> list[Variant]:
    other = _FACING_RIGHT.sub("", label)
    if other == label:
        other = f"{label}{',' if ':' in label else ':'} facing right"
    return [(label, style), (other, style)]


def _vary_style(label: str, style: str) -> list[Variant]:
    return [(label, other) for other in STYLES] if style in STYLES else []


def _vary_colour(label: str, style: str) -> list[Variant]:
    if len(_COLOUR.findall(label)) != 1:
        return []
    return [(_COLOUR.sub(colour, label), style) for colour in COLOURS]


# Name -> what gives the variants of a label in a style, itself among them; none where it does not name the attribute.
QUESTIONS: Mapping[str, Callable[[str, str], list[Variant]]] = {
    "tone": _vary_tone,  # 5
    "tone_pair": _vary_tone_pair,  # 20: two people of unlike tones, in order
    "gender": _vary_gender,  # 2
    "direction": _vary_direction,  # 2
    "style": _vary_style,  # 3
    "colour": _vary_colour,  # 7
}


class ForcedChoices:
    """The questions that a dataset can ask of its pictures.

    Args:
      examples: all of the dataset, with the attributes `label` and `style`.
    """

    def __init__(self, examples: Sequence[ImageTextExample]) -> None:
        self._variants = [(example.attributes["label"], example.attributes["style"]) for example in examples]
        self._rows = {variant: row for row, variant in enumerate(self._variants)}

    def questions(self, row: int) -> dict[str, np.ndarray]:
        """Gives the rows of the variants by question, int64 [variants], the true one's among them."""
        questions = {}
        for name, vary in QUESTIONS.items():
            variants = vary(*self._variants[row])
            if variants and all(variant in self._rows for variant in variants):
                questions[name] = np.array([self._rows[variant] for variant in variants])
        return questions


def is_nearest(picture: np.ndarray, true_image: np.ndarray, others: np.ndarray) -> bool:
    """Tells whether the true image is nearer to a picture than every other by mean squared error of pixels.

    Args:
      picture, true_image: uint8 [height, width, 3].
      others: uint8 [others, height, width, 3].
    """
    return bool(_distance(picture, true_image) < np.min(_distance(picture, others)))


def _distance(picture: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.mean(np.square(images.astype(np.float32) - picture), axis=(-3, -2, -1))
