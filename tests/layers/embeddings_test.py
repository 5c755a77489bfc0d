import numpy as np
import pytest

from parti_tf.layers.embeddings import GridPositionEmbedding, SequencePositionEmbedding
from tests.tiny import randomise


def built(layer):
    layer.build(None)
    return randomise(layer)


def test_a_cell_gets_the_vector_of_its_row_and_of_its_column():
    layer = built(GridPositionEmbedding(3, 4))
    inputs = np.random.default_rng(0).normal(size=(2, 9, 4)).astype("float32")
    row, column = np.asarray(layer.row), np.asarray(layer.column)
    outputs = np.asarray(layer(inputs))
    for cell in range(9):
        np.testing.assert_allclose(outputs[:, cell], inputs[:, cell] + row[cell // 3] + column[cell % 3], atol=1e-6)
    np.testing.assert_allclose(layer.table()[5], row[1] + column[2], atol=1e-6)


def test_a_token_gets_the_vector_of_its_place():
    layer = built(SequencePositionEmbedding(5, 4))
    inputs = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    np.testing.assert_allclose(layer(inputs), inputs + np.asarray(layer.position), atol=1e-6)


@pytest.mark.parametrize("layer_class", [GridPositionEmbedding, SequencePositionEmbedding])
def test_dtype_policy_and_config(layer_class):
    layer = built(layer_class(3, 4, dtype="mixed_bfloat16"))
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    length = 9 if layer_class is GridPositionEmbedding else 3
    assert layer(np.zeros((1, length, 4))).dtype == "bfloat16"
    again = layer_class.from_config(layer.get_config())
    again.build(None)
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in layer.weights]
