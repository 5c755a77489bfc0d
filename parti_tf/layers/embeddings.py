"""Learned positions: of a caption's tokens and of an image's grid cells (Parti 2.2; ViT-VQGAN 4)."""

import keras
from keras import ops


def small_normal() -> keras.initializers.Initializer:
    """Gives how embeddings start. Ours: the papers print no initialisation.

    A new one for each table: an initializer draws the same values every time.
    """
    return keras.initializers.RandomNormal(stddev=0.02)


@keras.saving.register_keras_serializable("parti_tf")
class GridPositionEmbedding(keras.layers.Layer):
    """Adds learned 2-D positions: a row vector plus a column vector for each cell (ViT-VQGAN 4).

    Call arguments:
      inputs: `[batch, grid_size**2, model_dim]`, cells in raster order.

    Returns:
      The same shape, positions added.
    """

    def __init__(self, grid_size: int, model_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.grid_size = grid_size
        self.model_dim = model_dim

    def build(self, input_shape):
        del input_shape
        shape = (self.grid_size, self.model_dim)
        self.row = self.add_weight(name="row", shape=shape, initializer=small_normal())
        self.column = self.add_weight(name="column", shape=shape, initializer=small_normal())
        self.built = True

    def table(self):
        """Gives the position vector of every cell in raster order, `[grid_size**2, model_dim]`."""
        grid = ops.convert_to_tensor(self.row)[:, None, :] + ops.convert_to_tensor(self.column)[None, :, :]
        return ops.cast(ops.reshape(grid, (-1, self.model_dim)), self.compute_dtype)

    def call(self, inputs):
        return inputs + self.table()


@keras.saving.register_keras_serializable("parti_tf")
class SequencePositionEmbedding(keras.layers.Layer):
    """Adds a learned vector for each place in a sequence.

    Call arguments:
      inputs: `[batch, length, model_dim]`.

    Returns:
      The same shape, positions added.
    """

    def __init__(self, length: int, model_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.length = length
        self.model_dim = model_dim

    def build(self, input_shape):
        del input_shape
        self.position = self.add_weight(
            name="position", shape=(self.length, self.model_dim), initializer=small_normal()
        )
        self.built = True

    def call(self, inputs):
        return inputs + ops.cast(self.position, self.compute_dtype)
