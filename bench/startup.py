"""How long a user waits before anything happens."""

import os
import subprocess
import sys
import tempfile

import numpy as np

from bench.figures import Figure, seconds


def imports() -> list[Figure]:
    """What `from parti_tf import TextToImage` adds to `import tensorflow, keras`, each in fresh processes."""
    base = "import tensorflow, keras"
    added = []
    for _ in range(5):
        without, with_parti = (_python(code) for code in (base, f"{base}; from parti_tf import TextToImage"))
        added.append(with_parti - without)
    return [Figure("import of parti_tf, beyond TensorFlow and Keras", float(np.median(added)), "s", "<= 1.0")]


def generate() -> list[Figure]:
    """Four samples by the command, from start to pictures on disk."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "parti_tf.cli", "generate", "a red heart, in noto style", "--out", out]
        taken = seconds(lambda: _run(command), 3)
    return [Figure("parti generate, four samples", taken, "s", "< 30")]


def _python(code: str) -> float:
    return seconds(lambda: _run([sys.executable, "-c", code]), 1)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
