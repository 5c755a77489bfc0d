"""What importing parti_tf brings along, seen in a fresh Python process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import parti_tf

ROOT = Path(__file__).parent.parent
# Legacy Keras, Beam and the serving API: another Keras beside ours, and packages that only jobs and servers need.
NEVER = {"tf_keras", "apache_beam", "tensorflow_serving", "torch"}
HEAVY = {"tensorflow", "keras", "tensorflow_text", "official", "matplotlib", "scipy"}


def modules_after(code: str) -> set[str]:
    """Gives the top-level modules of a fresh process after it ran the code."""
    report = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_parti_tf_is_cheap():
    modules = modules_after("import parti_tf")
    assert "parti_tf" in modules
    assert not modules & (NEVER | HEAVY)


def test_the_command_line_starts_without_tensorflow():
    assert not modules_after("import parti_tf.cli") & (NEVER | HEAVY)


def test_text_to_image_is_there_when_asked_for_and_brings_no_legacy_keras():
    modules = modules_after("from parti_tf import TextToImage\nassert TextToImage.__name__ == 'TextToImage'")
    assert {"tensorflow", "keras"} <= modules
    assert not modules & NEVER


def test_no_module_of_parti_tf_brings_legacy_keras_beam_or_the_serving_api():
    every_module = (
        "import importlib, pkgutil, parti_tf\n"
        "for module in pkgutil.walk_packages(parti_tf.__path__, 'parti_tf.'):\n"
        "    importlib.import_module(module.name)\n"
    )
    modules = modules_after(every_module)
    assert {"tensorflow", "tensorflow_text", "keras"} <= modules
    assert not modules & NEVER


def test_what_is_public_is_listed_and_anything_else_is_refused_by_name():
    assert set(parti_tf.__all__) <= set(dir(parti_tf))
    with pytest.raises(AttributeError, match="'parti_tf' has no attribute 'ImageToText'"):
        _ = parti_tf.ImageToText
