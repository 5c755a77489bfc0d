import itertools

import numpy as np

from parti_tf.data.examples import ImageTextExample
from parti_tf.evaluation.forced_choice import COLOURS, STYLES, TONES, ForcedChoices, is_nearest


def _examples(*variants: tuple[str, str]) -> list[ImageTextExample]:
    return [
        ImageTextExample(f"{style}:{index}", label, attributes={"label": label, "style": style})
        for index, (label, style) in enumerate(variants)
    ]


def _questions(label: str, style: str, others: list[tuple[str, str]]) -> dict[str, set[tuple[str, str]]]:
    examples = _examples((label, style), *others, ("grinning face", "noto"))
    variants = [(example.attributes["label"], example.attributes["style"]) for example in examples]
    return {
        question: {variants[row] for row in rows} for question, rows in ForcedChoices(examples).questions(0).items()
    }


def test_tone_is_asked_between_all_five():
    variants = [(f"woman astronaut: {tone} skin tone", "noto") for tone in TONES]
    assert _questions(*variants[3], variants[:3] + variants[4:]) == {"tone": set(variants)}
    assert _questions(*variants[3], variants[:3]) == {}  # without "dark" it would be a choice of four
    elsewhere = [(label, "twemoji") for label, _ in variants]
    assert _questions(*variants[3], elsewhere) == {}  # another style's tones are no variants


def test_two_tones_are_asked_as_a_pair_in_order():
    pairs = [
        (f"men wrestling: {one} skin tone, {other} skin tone, facing right", "noto")
        for one, other in itertools.permutations(TONES, 2)
    ]
    assert len(pairs) == 20
    assert _questions(*pairs[7], pairs[:7] + pairs[8:]) == {"tone_pair": set(pairs)}


def test_gender_is_asked_between_woman_and_man():
    woman, man = ("woman in tuxedo: dark skin tone", "noto"), ("man in tuxedo: dark skin tone", "noto")
    assert _questions(*woman, [man, ("person in tuxedo: dark skin tone", "noto")]) == {"gender": {woman, man}}
    men, women = ("men with bunny ears", "noto"), ("women with bunny ears", "noto")
    assert _questions(*men, [women]) == {"gender": {men, women}}
    assert _questions("woman and man holding hands", "noto", [men, women]) == {}
    assert _questions("mango", "noto", [("wogo", "noto")]) == {}


def test_direction_is_asked_from_both_sides():
    left, right = ("man running: light skin tone", "noto"), ("man running: light skin tone, facing right", "noto")
    assert _questions(*right, [left]) == {"direction": {left, right}}
    assert _questions(*left, [right]) == {"direction": {left, right}}
    left, right = ("person walking", "noto"), ("person walking: facing right", "noto")
    assert _questions(*right, [left]) == {"direction": {left, right}}
    assert _questions(*left, [right]) == {"direction": {left, right}}


def test_style_is_asked_between_all_three():
    variants = [("pizza", style) for style in STYLES]
    assert len(variants) == 3
    assert _questions(*variants[1], [variants[0], variants[2]]) == {"style": set(variants)}
    assert _questions(*variants[1], [variants[0]]) == {}


def test_colour_is_asked_between_all_seven():
    variants = [(f"{colour} heart", "noto") for colour in COLOURS]
    assert len(variants) == 7
    assert _questions(*variants[2], variants[:2] + variants[3:]) == {"colour": set(variants)}
    assert _questions("small orange diamond", "noto", [("small blue diamond", "noto")]) == {}


def test_nearest_by_pixels():
    picture = np.full((2, 2, 3), 100, np.uint8)
    near, far = picture.copy(), picture.copy()
    near[0, 0] = 110  # mean squared error 10 * 10 / 4 = 25
    far[:] = 94  # 6 * 6 = 36, though each pixel is nearer than that one
    assert is_nearest(picture, near, far[None])
    assert not is_nearest(picture, far, near[None])
    assert not is_nearest(picture, near, np.stack([far, near]))  # a tie is not an answer
    assert is_nearest(np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 20, np.uint8), np.full((1, 1, 1, 3), 250))
