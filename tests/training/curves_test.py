"""Tests of parti_tf/training/curves.py."""

import numpy as np
import pytest
from PIL import Image

from parti_tf.training.curves import draw_curves


def _write(path, rows):
    path.write_text("epoch,loss,val_loss\n" + "".join(f"{epoch},{loss},{held}\n" for epoch, loss, held in rows))
    return path


def test_the_picture_shows_both_curves(tmp_path):
    low = draw_curves(_write(tmp_path / "a.csv", [(0, 3.0, 3.5), (1, 2.0, 2.6)]), tmp_path / "a.png")
    other = draw_curves(_write(tmp_path / "b.csv", [(0, 3.0, 3.5), (1, 2.0, 3.9)]), tmp_path / "b.png")
    pictures = [np.asarray(Image.open(path)) for path in (low, other)]
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.png", "b.csv", "b.png"]


def test_a_log_without_epochs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no epoch"):
        draw_curves(_write(tmp_path / "a.csv", []), tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
