"""Pictures of what a model can do so far, after every epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parti_tf.data.image_files import write_png


class SamplePictures(keras.callbacks.Callback):
    """Draws a picture after every epoch, for TensorBoard and as `pictures/0001.png` in the run's folder.

    Args:
      folder: of the run.
      draw: gives the picture, uint8 `[H, W, 3]`, of the model being trained.
    """

    def __init__(self, folder: str | Path, draw: Callable[[keras.Model], np.ndarray]):
        super().__init__()
        self.folder = Path(folder)
        self.draw = draw
        self._writer: Any = None

    def on_train_begin(self, logs=None):
        del logs
        self._writer = tf.summary.create_file_writer(str(self.folder / "events" / "pictures"))

    def on_epoch_end(self, epoch, logs=None):
        del logs
        picture = self.draw(self.model)
        write_png(self.folder / "pictures" / f"{epoch + 1:04d}.png", picture)
        with self._writer.as_default():
            tf.summary.image("samples", picture[None], step=epoch)
        self._writer.flush()

    def on_train_end(self, logs=None):
        del logs
        self._writer.close()
