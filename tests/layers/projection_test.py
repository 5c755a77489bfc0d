import keras
import numpy as np
import pytest

from parti_tf.layers.projection import Projection
from tests.tiny import randomise

INPUTS = np.random.default_rng(0).normal(size=(2, 3, 6)).astype("float32")


def projection(**options) -> Projection:
    layer = Projection(6, 4, **options)
    layer.build()
    return randomise(layer)


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_it_is_a_dense_layer_with_its_kernel_turned(activation):
    layer = projection(activation=activation)
    assert layer.kernel.shape == (4, 6)
    dense = keras.layers.Dense(4, activation=activation)
    dense.build(INPUTS.shape)
    dense.set_weights([np.asarray(layer.kernel).T, np.asarray(layer.bias)])
    np.testing.assert_allclose(layer(INPUTS), dense(INPUTS), atol=1e-6)


def test_without_a_bias_zero_stays_zero():
    layer = projection(use_bias=False)
    assert len(layer.weights) == 1
    np.testing.assert_array_equal(layer(np.zeros_like(INPUTS)), np.zeros((2, 3, 4)))
    assert np.any(np.asarray(projection()(np.zeros_like(INPUTS))))


def test_it_is_made_again_from_its_config():
    layer = projection(use_bias=False, activation="tanh")
    again = Projection.from_config(layer.get_config())
    again.build()
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(INPUTS), layer(INPUTS))
