"""Which positions may see which: boolean masks, True = may attend (Parti 2.2; DALL-E Appendix B.1, Fig. 11).

Causal masks here are functions of one number, the offset `t - s` from a query at raster position t back to a
key at s. A mask is therefore a short vector over offsets, which the full pass spreads into a square and the
cached decode reads as it is.
"""

import numpy as np
from keras import ops


def full_causal_offsets(length: int) -> np.ndarray:
    """Gives the offsets of full causal attention: all of them. Bool `[length]`."""
    return np.ones([length], dtype=bool)


def conv_causal_offsets(grid_size: int, window: int) -> np.ndarray:
    """Gives the offsets of conv-shaped causal attention (DALL-E Fig. 11).

    A query sees the `window` x `window` neighbourhood of its grid cell as far as it has been drawn. Rows wrap
    into their raster neighbours at the sides of the grid, as DALL-E's do, so the neighbourhood is the same set
    of offsets for every position: at most 61 keys for a window of 11.

    Args:
      grid_size: cells along one side of the image.
      window: side of the neighbourhood in cells, odd.

    Returns:
      Bool `[reach + 1]` with reach the farthest offset, 165 for an 11 x 11 window on a 32 x 32 grid; never
      longer than the image has cells.
    """
    radius = window // 2
    reach = min(radius * grid_size + radius, grid_size**2 - 1)
    offsets = np.arange(reach + 1)
    if grid_size <= window:  # the neighbourhood spans whole rows: every offset lies in it
        return np.ones_like(offsets, dtype=bool)
    return (offsets + radius) % grid_size <= 2 * radius  # at most `radius` columns from a cell straight above


def causal_mask(offsets: np.ndarray, length: int) -> np.ndarray:
    """Spreads allowed offsets into a mask. Bool `[length, length]`, query by key."""
    positions = np.arange(length)
    offset = positions[:, None] - positions[None, :]
    return (offset >= 0) & (offset < len(offsets)) & offsets[np.clip(offset, 0, len(offsets) - 1)]


def padding_mask(ids, pad_id: int = 0):
    """Gives True where a token is no padding, for attention over it. Bool `[batch, 1, 1, length]`."""
    return ops.not_equal(ids, pad_id)[:, None, None, :]


def ring_bias(offsets: np.ndarray, position, masked: float):
    """Gives the score bias of a ring buffer's slots for one query position.

    The buffer has a slot for each offset. Position p is kept in slot p mod slots, so slot s is
    (position - s) mod slots behind the query. The bias is read off a doubled table at a moving start.

    Args:
      offsets: bool `[slots]`, which offsets may be seen.
      position: int32 scalar, already written to its slot.
      masked: what a slot gets that may not be seen or was never written.

    Returns:
      float32 `[1, 1, slots]`.
    """
    slots = len(offsets)
    reach_back = np.where(offsets[::-1], 0.0, masked).astype("float32")  # index i: offset slots - 1 - i
    table = ops.convert_to_tensor(np.concatenate([reach_back, reach_back]))
    bias = ops.slice(table, (slots - 1 - position % slots,), (slots,))
    unwritten = ops.cast(ops.arange(slots, dtype="int32") > position, "float32") * masked
    return ops.minimum(bias, unwritten)[None, None, :]
