import functools
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from parti_tf.data.image_processing import (
    crop_for_image_tokenizer,
    crop_for_transformer,
    decode_image,
    fit_image,
    validate_images,
)

SIZE = 16


def _ramp(height, width):
    """An image whose red channel is each pixel's column and whose green channel is its row."""
    rows, columns = np.mgrid[:height, :width]
    return tf.constant(np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8))


def _slope(image):
    """Source columns a column of the crop spans: the factor by which it was shrunk, negative if mirrored."""
    red = image.numpy()[..., 0].astype(float)
    return (red[:, -1] - red[:, 0]).mean() / (image.shape[1] - 1)


def _crops(crop, image, count=60):
    traced = tf.function(lambda seed: crop(image, SIZE, seed))
    return [traced(tf.constant([7, i])) for i in range(count)]


CROPS = [crop_for_image_tokenizer, crop_for_transformer]


@pytest.mark.parametrize("crop", CROPS)
def test_crop_follows_from_its_seed(crop):
    first, second = (_crops(crop, _ramp(80, 64), count=8) for _ in range(2))
    assert all(one.shape == (SIZE, SIZE, 3) and one.dtype == tf.uint8 for one in first)
    np.testing.assert_array_equal(first, second)
    assert len({one.numpy().tobytes() for one in first}) == 8


def test_image_tokenizer_crop_shrinks_to_9_to_12_eighths():
    # Listing 1: a side of 64 becomes 18..24 pixels, so a column spans 64/24 = 2.7 to 64/18 = 3.6 of the source's.
    slopes = [_slope(one) for one in _crops(functools.partial(crop_for_image_tokenizer, flip=False), _ramp(64, 64))]
    assert 2.55 < min(slopes) < 2.85
    assert 3.4 < max(slopes) < 3.8


def test_transformer_crop_shrinks_to_8_to_9_eighths():
    # Listing 2: a side of 64 becomes 16..18 pixels, so a column spans 64/18 = 3.6 to 64/16 = 4 of the source's.
    slopes = [_slope(one) for one in _crops(crop_for_transformer, _ramp(64, 64))]
    assert 3.5 < min(slopes) < 3.8
    assert 4.0 < max(slopes) < 4.3


def test_image_tokenizer_crop_reaches_both_ends_and_transformer_crop_stays_in_the_middle():
    image = _ramp(64, 160)  # 96 columns to spare; the middle ones begin at 36 and, at most, at 59
    left = [one.numpy()[..., 0].min() for one in _crops(functools.partial(crop_for_image_tokenizer, flip=False), image)]
    assert min(left) < 12
    assert max(left) > 85
    for one in _crops(crop_for_transformer, image):
        assert one.numpy()[..., 0].min() >= 36
        assert one.numpy()[..., 0].max() <= 59 + 63


def test_only_the_image_tokenizer_crop_mirrors_and_only_if_asked():
    mirrored = [_slope(one) < 0 for one in _crops(crop_for_image_tokenizer, _ramp(64, 64))]
    assert 15 < sum(mirrored) < 45
    for crop in (functools.partial(crop_for_image_tokenizer, flip=False), crop_for_transformer):
        assert all(_slope(one) > 0 for one in _crops(crop, _ramp(64, 64)))


@pytest.mark.parametrize("crop", CROPS)
def test_crop_of_an_image_of_its_own_size_is_the_image(crop):
    crop = functools.partial(crop, flip=False) if crop is crop_for_image_tokenizer else crop
    np.testing.assert_array_equal(crop(_ramp(SIZE, SIZE), SIZE, tf.constant([0, 1])), _ramp(SIZE, SIZE))


@pytest.mark.parametrize("crop", CROPS)
def test_crop_refuses_smaller_images(crop):
    with pytest.raises(tf.errors.InvalidArgumentError, match="fewer than 16 pixels along one side"):
        crop(_ramp(15, 40), SIZE, tf.constant([0, 0]))


def test_fit_keeps_an_image_of_that_size_and_takes_the_middle_of_others():
    np.testing.assert_array_equal(fit_image(_ramp(SIZE, SIZE), SIZE), _ramp(SIZE, SIZE))
    fitted = fit_image(_ramp(SIZE, 48), SIZE).numpy()
    np.testing.assert_array_equal(fitted[0, :, 0], np.arange(16, 32))
    assert fit_image(_ramp(40, 64), SIZE).shape == (SIZE, SIZE, 3)
    assert fit_image(_ramp(8, 8), SIZE).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("JPEG", "RGB"), ("BMP", "RGB")]
)
def test_decode_gives_three_channels(form, mode):
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (204, 204, 204)).convert(mode).save(file, form)
    image = decode_image(tf.constant(file.getvalue()))
    assert image.shape == (4, 5, 3)
    assert image.dtype == tf.uint8
    np.testing.assert_allclose(image, 204, atol=2)


def test_decode_refuses_what_is_no_image():
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        decode_image(tf.constant(b"no image"))


def test_valid_images_come_back_as_floats():
    grey = np.full((2, 4, 4, 3), 51, np.uint8)
    assert validate_images(grey, 4).dtype == tf.float32
    np.testing.assert_allclose(validate_images(grey, 4), 0.2)
    np.testing.assert_allclose(validate_images(grey / 255.0, 4), 0.2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 4, 3)), r"shape \(4, 4, 3\); it must be \(batch, 4, 4, 3\)"),
        (np.zeros((1, 4, 5, 3)), r"shape \(1, 4, 5, 3\)"),
        (np.zeros((1, 4, 4, 1)), r"shape \(1, 4, 4, 1\)"),
        (np.zeros((1, 4, 4, 3), np.int32), "images are int32; they must be uint8, or floats"),
        (np.full((1, 4, 4, 3), 255.0), r"from 255 to 255; they must be in \[0, 1\]"),
        (np.full((1, 4, 4, 3), -0.5), r"from -0.5 to -0.5"),
        (np.full((1, 4, 4, 3), np.nan), r"from nan to nan"),
    ],
)
def test_images_of_wrong_shape_or_range_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        validate_images(images, 4)
