"""From image files to square training pictures: the two random crops of DALL-E, which Parti trains with (4.1).

Image functions take and give uint8 [height, width, 3] and work inside tf.data; every random choice follows
from a seed.
"""

from typing import Any

import numpy as np
import tensorflow as tf


def decode_image(data: tf.Tensor) -> tf.Tensor:
    """Gives the picture in a PNG, JPEG, GIF (its first frame) or BMP file; transparency is dropped.

    Args:
      data: string [], the file's bytes.

    Returns:
      uint8 [height, width, 3].

    Raises:
      tf.errors.InvalidArgumentError: the bytes are none of these formats, or are cut off.
    """
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def crop_for_image_tokenizer(image: tf.Tensor, size: int, seed: tf.Tensor, flip: bool = True) -> tf.Tensor:
    """Gives a random crop to train the image tokenizer on (DALL-E Listing 1, Parti 4.1).

    A random square as wide as the shorter side, resized to between 9/8 and 12/8 of `size` where it has that
    many pixels, then a random square of `size`, mirrored half of the time.

    Args:
      image: uint8 [height, width, 3], no side below `size`.
      size: pixels along one side of the result. The paper's is 256; the ratios hold for any.
      seed: int [2].
      flip: whether to mirror; not for pictures with text or with a left and a right that captions name.

    Returns:
      uint8 [size, size, 3].
    """
    square_seed, side_seed, crop_seed, flip_seed = tf.unstack(_split_seed(seed, 4), num=4)
    image = _require_size(image, size)
    shorter = tf.reduce_min(tf.shape(image)[:2])
    image = tf.image.stateless_random_crop(image, [shorter, shorter, 3], square_seed)
    least, most = (tf.minimum(shorter, round(eighths / 8 * size)) for eighths in (9, 12))
    image = _resize(image, tf.random.stateless_uniform([], side_seed, least, most + 1, tf.int32))
    image = tf.image.stateless_random_crop(image, [size, size, 3], crop_seed)
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    return tf.ensure_shape(image, [size, size, 3])


def crop_for_transformer(image: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Gives a gentle random crop to train the Transformer on (DALL-E Listing 2, Parti 4.1).

    A square as wide as the shorter side, off the centre by at most an eighth of what it leaves over, resized
    to between `size` and 9/8 of it, then a random square of `size`. Never mirrored: pictures hold text.

    Args:
      image: uint8 [height, width, 3], no side below `size`.
      size: pixels along one side of the result. The paper's is 256; the ratios hold for any.
      seed: int [2].

    Returns:
      uint8 [size, size, 3].
    """
    top_seed, left_seed, side_seed, crop_seed = tf.unstack(_split_seed(seed, 4), num=4)
    image = _require_size(image, size)
    height, width = tf.unstack(tf.shape(image)[:2], num=2)
    shorter = tf.minimum(height, width)
    top = _near_middle(height - shorter, top_seed)
    left = _near_middle(width - shorter, left_seed)
    image = image[top : top + shorter, left : left + shorter]
    most = tf.minimum(shorter, round(9 / 8 * size))
    image = _resize(image, tf.random.stateless_uniform([], side_seed, size, most + 1, tf.int32))
    image = tf.image.stateless_random_crop(image, [size, size, 3], crop_seed)
    return tf.ensure_shape(image, [size, size, 3])


def fit_image(image: tf.Tensor, size: int) -> tf.Tensor:
    """Gives the middle square of an image at `size`, with nothing random; one of that size comes back as it is.

    Args:
      image: uint8 [height, width, 3].
      size: pixels along one side of the result.

    Returns:
      uint8 [size, size, 3].
    """
    height, width = tf.unstack(tf.shape(image)[:2], num=2)
    shorter = tf.minimum(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    square = image[top : top + shorter, left : left + shorter]
    fitted = tf.cond(tf.equal(shorter, size), lambda: square, lambda: _resize(square, size))
    return tf.ensure_shape(fitted, [size, size, 3])


def validate_images(images: Any, image_size: int) -> tf.Tensor:
    """Gives images as float32 in [0, 1], once their shape and range are right.

    Args:
      images: [batch, image_size, image_size, 3], uint8, or floats in [0, 1].
      image_size: pixels along one side.

    Returns:
      float32 [batch, image_size, image_size, 3] in [0, 1].

    Raises:
      ValueError: the shape, type or range is wrong; the message names it and what is allowed.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != (image_size, image_size, 3):
        raise ValueError(f"images have shape {images.shape}; it must be (batch, {image_size}, {image_size}, 3)")
    if images.dtype == np.uint8:
        return tf.constant(images, tf.float32) / 255.0
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images are {images.dtype}; they must be uint8, or floats in [0, 1]")
    if images.size and not (images.min() >= 0.0 and images.max() <= 1.0):  # written so that NaN fails too
        raise ValueError(f"images reach from {images.min():g} to {images.max():g}; they must be in [0, 1]")
    return tf.constant(images, tf.float32)


def _require_size(image: tf.Tensor, size: int) -> tf.Tensor:
    shape = tf.shape(image)
    message = f"an image has fewer than {size} pixels along one side; a crop of {size} needs at least that many"
    with tf.control_dependencies([tf.debugging.assert_greater_equal(tf.reduce_min(shape[:2]), size, message)]):
        return tf.identity(image)


def _split_seed(seed: tf.Tensor, count: int) -> tf.Tensor:
    return tf.random.split(seed, count, alg="philox")  # [count, 2]


def _near_middle(slack: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    least = 3 * slack // 8
    return tf.random.stateless_uniform([], seed, least, tf.maximum(least + 1, 5 * slack // 8), tf.int32)


def _resize(image: tf.Tensor, side: tf.Tensor | int) -> tf.Tensor:
    """Gives a square image at `side` pixels as DALL-E's listings do: by area, corners aligned, rounded."""
    resized = tf.compat.v1.image.resize_images(
        tf.cast(image, tf.float32), [side, side], method=tf.compat.v1.image.ResizeMethod.AREA, align_corners=True
    )
    return tf.cast(tf.math.rint(tf.clip_by_value(resized, 0.0, 255.0)), tf.uint8)
