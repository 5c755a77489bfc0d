import numpy as np
import pytest
from PIL import Image

from parti_tf.data.image_files import file_stem, labelled_grid, write_png, write_samples

BACKGROUND = 244
GAP = 8


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def is_text(grid: np.ndarray) -> np.ndarray:
    """Where text may have been drawn: dark grey pixels on the background of a grid of white pictures."""
    return np.all(grid < 200, axis=-1)


def test_a_png_holds_the_very_pixels_and_makes_its_folders(tmp_path):
    image = pictures(5, 7)
    path = write_png(tmp_path / "deep" / "er" / "a.png", image)
    assert path == tmp_path / "deep" / "er" / "a.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_png_that_fails_leaves_the_earlier_one_and_nothing_else(tmp_path):
    image = pictures(4, 4)
    write_png(tmp_path / "a.png", image)
    with pytest.raises(ValueError, match=r"pictures are uint8 \[4, 4\]; they must be uint8 of rank 3"):
        write_png(tmp_path / "a.png", image[..., 0])
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_png(tmp_path / "taken", image)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "taken"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)


def test_samples_are_named_by_prompt_and_number(tmp_path):
    images = pictures(2, 3, 4, 4)
    paths = write_samples(tmp_path, ["A red heart!", "…"], images)
    assert [path.name for path in paths] == [
        "0000_a-red-heart_00.png",
        "0000_a-red-heart_01.png",
        "0000_a-red-heart_02.png",
        "0001_picture_00.png",
        "0001_picture_01.png",
        "0001_picture_02.png",
    ]
    np.testing.assert_array_equal(np.asarray(Image.open(paths[5])), images[1, 2])


@pytest.mark.parametrize(
    ("caption", "stem"),
    [
        ("A red heart, in noto style", "a-red-heart-in-noto-style"),
        ("São Tomé / Príncipe", "são-tomé-príncipe"),
        ("../../etc/passwd", "etc-passwd"),
        ("snake_case -- and\tdashes-", "snake-case-and-dashes"),
        ("?!", "picture"),
        ("four word " * 9, "four-word-four-word-four-word-four-word"),
    ],
)
def test_a_stem_keeps_letters_and_is_safe_in_a_path(caption, stem):
    assert file_stem(caption) == stem


def test_a_grid_holds_each_enlarged_picture_at_its_place():
    images = pictures(5, 64, 64)
    grid = labelled_grid(images, [""] * 5, columns=2)
    # 64 px pictures are doubled to 128: 3 rows and 2 columns, a gap before each and one after the last.
    assert grid.shape == (3 * (128 + GAP) + GAP, 2 * (128 + GAP) + GAP, 3)
    assert grid.dtype == np.uint8
    for index, image in enumerate(images):
        top, left = (GAP + place * (128 + GAP) for place in divmod(index, 2))
        np.testing.assert_array_equal(grid[top : top + 128 : 2, left : left + 128 : 2], image)
        np.testing.assert_array_equal(grid[top + 1 : top + 128 : 2, left + 1 : left + 128 : 2], image)
    assert (grid[-GAP - 128 : -GAP, -GAP - 128 :] == BACKGROUND).all()  # the place of a sixth picture


def test_large_pictures_keep_their_size_and_columns_stop_at_the_pictures_there_are():
    assert labelled_grid(pictures(2, 130, 200), ["", ""], columns=9).shape == (130 + 2 * GAP, 2 * (200 + GAP) + GAP, 3)


def test_a_label_is_written_above_its_picture_and_nowhere_else():
    white = np.full((2, 128, 128, 3), 255, np.uint8)
    grid = labelled_grid(white, ["", "red heart"], columns=2)
    rows, columns = np.nonzero(is_text(grid))
    assert rows.max() < grid.shape[0] - 128 - GAP
    assert columns.min() >= GAP + 128 + GAP
    assert not is_text(labelled_grid(white, ["", ""], columns=2)).any()


def test_neighbours_with_one_label_share_one_text():
    white = np.full((3, 128, 128, 3), 255, np.uint8)
    shared = labelled_grid(white, ["red heart"] * 3, columns=3)
    own = labelled_grid(white, ["red heart", "red  heart", "red heart"], columns=3)
    once = is_text(shared).sum()
    assert once > 0
    assert is_text(own).sum() > 2.5 * once


def test_a_long_label_takes_more_lines_and_a_long_word_is_broken():
    white = np.full((1, 128, 128, 3), 255, np.uint8)
    one, two = (labelled_grid(white, [text], columns=1) for text in ("heart", "a woman astronaut with a heart"))
    assert two.shape[0] > one.shape[0]
    word = labelled_grid(white, ["Donaudampfschifffahrtsgesellschaft"], columns=1)
    assert word.shape[0] > one.shape[0]
    assert not is_text(word)[:, -GAP:].any()


def test_letters_beyond_ascii_are_drawn_as_themselves():
    white = np.full((1, 128, 128, 3), 255, np.uint8)
    drawn = [labelled_grid(white, [letter], columns=1) for letter in "éñçЖ"]
    assert all(is_text(grid).any() for grid in drawn)
    assert len({grid.tobytes() for grid in drawn}) == 4  # a font without them would draw four equal boxes


@pytest.mark.parametrize(
    ("images", "labels", "columns", "message"),
    [
        (pictures(2, 4, 4), ["a"], 1, "1 labels do not name 2 pictures"),
        (pictures(0, 4, 4), [], 1, "0 labels do not name 0 pictures"),
        (pictures(1, 4, 4), ["a"], 0, "columns is 0; it must be at least 1"),
        (pictures(4, 4), ["a"] * 4, 1, r"pictures are uint8 \[4, 4, 3\]; they must be uint8 of rank 4"),
        (pictures(1, 4, 4).astype("float32"), ["a"], 1, r"pictures are float32 \[1, 4, 4, 3\]"),
    ],
)
def test_a_grid_of_something_else_is_refused(images, labels, columns, message):
    with pytest.raises(ValueError, match=message):
        labelled_grid(images, labels, columns)


def test_samples_without_a_prompt_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 prompts do not name 2 rows of pictures"):
        write_samples(tmp_path, ["a"], pictures(2, 1, 4, 4))
    assert list(tmp_path.iterdir()) == []
