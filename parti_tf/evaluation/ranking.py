"""How well a picture is recognised as that of its caption: the rank of the true image among 100.

Ours. The candidates are the true image and 99 others. A network that saw none of these pictures in its
training, MobileNetV2, turns the generated picture and every candidate into 1280 features, and the candidates
are ordered by the cosine of theirs with the generated picture's. Chance ranks the true image first once in 100.
"""

import zlib

import numpy as np
import tensorflow as tf

from parti_tf.evaluation.gallery import map_images
from parti_tf.models.perceptual import PerceptualNetwork, load_mobilenet_v2_weights

NUM_CANDIDATES = 100


def draw_distractors(true_row: int, rows: np.ndarray, example_id: str, seed: int) -> np.ndarray:
    """Gives the rows of the pictures that stand beside the true one, int64 [up to 99].

    They are drawn evenly and without repeats from `rows` other than the true one, so near variants of it,
    such as its other skin tones, may be among them. The draw depends on the seed and the example's id alone.

    Args:
      true_row: the row of the true image.
      rows: the rows to draw from, sorted.
      example_id: the id of the true image.
      seed: another seed, another draw.
    """
    others = rows[rows != true_row]
    generator = np.random.default_rng([seed, zlib.crc32(example_id.encode())])
    return generator.choice(others, min(NUM_CANDIDATES - 1, len(others)), replace=False)


def rank_of_true(features: np.ndarray, true_features: np.ndarray, distractor_features: np.ndarray) -> int:
    """Gives the place of the true image among the candidates, from 1; a tie counts against it.

    Args:
      features: float [features], of the generated picture, of length 1 like all of them.
      true_features: float [features].
      distractor_features: float [distractors, features].
    """
    return 1 + int(np.sum(distractor_features @ features >= true_features @ features))


class ImageFeatures:
    """Gives the pooled MobileNetV2 features of pictures, scaled to length 1, so that their products are cosines.

    Args:
      image_size: pixels along one side to which pictures are resized.
      batch_size: pictures at a time.

    Call arguments:
      images: uint8 [count, height, width, 3].

    Returns:
      float32 [count, 1280].

    Raises:
      FileNotFoundError: the weights are not installed.
    """

    def __init__(self, image_size: int, batch_size: int) -> None:
        self._batch_size = batch_size
        network = PerceptualNetwork(("pooled",), image_size=image_size)
        load_mobilenet_v2_weights(network)
        self._network = tf.function(network, jit_compile=True)  # once, since it takes seconds to compile

    def __call__(self, images: np.ndarray) -> np.ndarray:
        (features,) = map_images(self._network, images, self._batch_size, "features")
        return features / np.linalg.norm(features, axis=1, keepdims=True)
