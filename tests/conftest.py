"""Settings that TensorFlow reads once, when it is first imported; each worker of the suite is a process of its own."""

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Two workers with one thread each, and as much of a GPU's memory as they use, do not get in each other's way.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


@pytest.fixture(scope="session")
def text_to_image(tmp_path_factory: pytest.TempPathFactory):
    """A whole untrained system of the smallest parts; nothing may change its weights."""
    from tests.tiny import tiny_text_to_image

    return tiny_text_to_image(tmp_path_factory.mktemp("text_to_image"))
