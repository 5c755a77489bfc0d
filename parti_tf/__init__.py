"""Parti in TensorFlow and Keras: captions in, pictures out.

`from parti_tf import TextToImage` is the way in. It is imported when it is first asked for, so that
`import parti_tf` itself is cheap and what needs no model, such as `parti --help`, starts no TensorFlow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parti_tf.pipeline import TextToImage

__version__ = "0.1.0"
__all__ = ["TextToImage", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "TextToImage":
        from parti_tf.pipeline import TextToImage

        return TextToImage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
