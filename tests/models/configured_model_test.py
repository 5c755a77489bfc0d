import json

import keras
import pytest

from parti_tf.config import TextTokenizerConfig
from parti_tf.models.configured_model import ConfiguredModel


class Scale(ConfiguredModel):
    config_class = TextTokenizerConfig

    def call(self, inputs):
        return inputs * self.config.max_length


def test_a_model_is_made_again_from_its_config_by_way_of_json():
    model = Scale(TextTokenizerConfig(vocab_size=10, max_length=3), name="scale")
    again = Scale.from_config(json.loads(json.dumps(model.get_config())))
    assert again.config == model.config
    assert again.name == "scale"
    assert keras.ops.convert_to_numpy(again(keras.ops.ones([2]))).tolist() == [3, 3]


def test_the_dtype_policy_comes_back_too():
    config = TextTokenizerConfig(vocab_size=10, max_length=3)
    assert Scale.from_config(Scale(config, dtype="mixed_bfloat16").get_config()).compute_dtype == "bfloat16"
    assert Scale.from_config(Scale(config).get_config()).compute_dtype == "float32"


def test_a_config_of_another_class_is_refused():
    with pytest.raises(ValueError, match="Scale takes a TextTokenizerConfig, got dict"):
        Scale({"vocab_size": 10, "max_length": 3})


def test_a_config_with_a_field_too_many_is_refused():
    with pytest.raises(ValueError, match="TextTokenizerConfig has no field length; it has max_length, vocab_size"):
        Scale.from_config({"config": {"length": 3}})
