"""The linear map all Transformer weights live in."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("parti_tf")
class Projection(keras.layers.Layer):
    """A linear map whose kernel holds one row per output, `[output_dim, input_dim]`.

    That is the order in which a matrix-vector product reads memory in one stream, and drawing tokens for one
    caption is nothing but such products. At the widths of Parti-350M they read 26 GB/s from this order and 15 from
    that of Keras' `Dense`, on one thread (`make bench ARGS=kernel_order`).

    Args:
      input_dim: width of the inputs.
      output_dim: width of the outputs.
      use_bias: whether a bias is added.
      activation: a Keras activation name, applied last; None for none.

    Call arguments:
      inputs: `[..., input_dim]`.

    Returns:
      `[..., output_dim]`.
    """

    def __init__(self, input_dim: int, output_dim: int, use_bias: bool = True, activation: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.input_dim = input_dim
        self.output_dim = output_dim
        self.use_bias = use_bias
        self.activation = activation
        self._activate = keras.activations.get(activation)

    def build(self, *_):
        self.kernel = self.add_weight(
            name="kernel", shape=(self.output_dim, self.input_dim), initializer="glorot_uniform"
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.output_dim,), initializer="zeros")
        self.built = True

    def call(self, inputs):
        outputs = ops.matmul(inputs, ops.transpose(self.kernel))
        if self.use_bias:
            outputs = outputs + self.bias
        return self._activate(outputs)
