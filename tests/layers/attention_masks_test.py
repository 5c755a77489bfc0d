import numpy as np
import pytest

from parti_tf.layers.attention_masks import (
    causal_mask,
    conv_causal_offsets,
    full_causal_offsets,
    padding_mask,
    ring_bias,
)

GRIDS = [(1, 11), (2, 1), (3, 11), (4, 3), (5, 5), (6, 1), (6, 7), (7, 5), (11, 11), (12, 11)]  # grid, window


def neighbourhood_mask(grid_size: int, window: int) -> np.ndarray:
    """DALL-E's window by its definition: query q sees key k <= q where q - k = grid_size * dr + dc, |dr|, |dc| <= r."""
    radius = window // 2
    steps = range(-radius, radius + 1)
    near = {grid_size * rows + columns for rows in steps for columns in steps}
    return np.array([[q >= k and q - k in near for k in range(grid_size**2)] for q in range(grid_size**2)])


def mask_of(grid_size: int, window: int) -> np.ndarray:
    return causal_mask(conv_causal_offsets(grid_size, window), grid_size**2)


@pytest.mark.parametrize(("grid_size", "window"), GRIDS)
def test_conv_mask_is_the_window_as_far_as_it_has_been_drawn(grid_size, window):
    np.testing.assert_array_equal(mask_of(grid_size, window), neighbourhood_mask(grid_size, window))


def test_conv_mask_of_a_32_x_32_image():
    offsets = conv_causal_offsets(32, 11)
    assert len(offsets) == 166  # 5 rows of 32 and 5 columns back, and itself
    mask = causal_mask(offsets, 1024)
    np.testing.assert_array_equal(mask, neighbourhood_mask(32, 11))
    keys = mask.sum(axis=1)
    assert keys.max() == 61  # 5 rows of 11, 5 cells on the left, and itself
    assert keys[0] == 1
    assert keys.mean() == pytest.approx(55.8, abs=0.05)
    assert mask.sum() / (1024 * 1025 / 2) == pytest.approx(0.109, abs=0.0005)  # of full causal attention


def test_conv_mask_wraps_into_the_raster_neighbours():
    mask = mask_of(8, 3)
    assert mask[16, 15]  # the cell before, at the far end of the row above
    assert not mask_of(8, 1)[16, 15]
    assert mask[16, 7]  # the row above, one to the left: two rows up
    assert not mask[16, 6]


def test_a_window_of_1_sees_only_itself():
    np.testing.assert_array_equal(mask_of(6, 1), np.eye(36, dtype=bool))


def test_a_window_wider_than_the_image_sees_all_that_was_drawn():
    full = np.tril(np.ones((9, 9), bool))
    np.testing.assert_array_equal(mask_of(3, 11), full)
    np.testing.assert_array_equal(causal_mask(full_causal_offsets(9), 9), full)
    assert len(conv_causal_offsets(3, 11)) == 9


@pytest.mark.parametrize(("grid_size", "window"), [*GRIDS, (4, None)])
def test_ring_bias_is_the_row_of_the_causal_mask_at_every_position(grid_size, window):
    length = grid_size**2
    offsets = conv_causal_offsets(grid_size, window) if window else full_causal_offsets(length)
    slots, mask = len(offsets), causal_mask(offsets, length)
    held = [-1] * slots  # the position in each slot
    for position in range(length):
        held[position % slots] = position
        visible = [p >= 0 and mask[position, p] for p in held]
        bias = np.asarray(ring_bias(offsets, position, -7.0))
        assert bias.shape == (1, 1, slots)
        np.testing.assert_array_equal(bias[0, 0], np.where(visible, 0.0, -7.0))
        assert sum(visible) == mask[position].sum()  # the ring has lost nothing that may be seen


def test_padding_mask():
    mask = np.asarray(padding_mask(np.array([[5, 1, 0, 0], [7, 3, 9, 1]])))
    assert mask.shape == (2, 1, 1, 4)
    assert mask[:, 0, 0].tolist() == [[True, True, False, False], [True] * 4]
    assert np.asarray(padding_mask(np.array([[5, 0]]), pad_id=5))[0, 0, 0].tolist() == [False, True]
