"""The base of every model here: a Keras model that is made from one config dataclass."""

import dataclasses
from typing import Any, ClassVar

import keras

from parti_tf import config as config_lib


class ConfiguredModel(keras.Model):
    """A `keras.Model` that keeps its config dataclass and serialises by it.

    Args:
      config: an instance of the class attribute `config_class`.
    """

    config_class: ClassVar[type]
    config: Any

    def __init__(self, config: Any, **kwargs):
        if not isinstance(config, self.config_class):
            raise ValueError(f"{type(self).__name__} takes a {self.config_class.__name__}, got {type(config).__name__}")
        super().__init__(**kwargs)
        self.config = config

    def get_config(self) -> dict[str, Any]:
        return {"config": dataclasses.asdict(self.config), "name": self.name, "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects=None):
        del custom_objects
        values = dict(config)
        return cls(config_lib.from_dict(cls.config_class, values.pop("config")), **values)
