"""Packaging of parti_tf. Exact versions of everything are in requirements.lock."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "parti_tf/__init__.py").read_text(), re.MULTILINE)
README = ROOT / "README.md"

setup(
    name="parti_tf",
    version=VERSION[1],
    description="Parti, the Pathways Autoregressive Text-to-Image model, in TensorFlow and Keras",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["parti_tf", "parti_tf.*", "beam_jobs", "beam_jobs.*", "export", "export.*"]),
    package_data={
        "parti_tf": ["presets/*/*", "data/*.json"],
        "export": ["tf_serving/*"],
    },
    exclude_package_data={"": ["BUILD"]},
    python_requires=">=3.11,<3.12",  # the one that requirements.lock was resolved and tested for
    install_requires=[
        "tensorflow>=2.20,<2.21",
        "keras>=3.15,<4",
        "tensorflow-text>=2.20,<2.21",
        "tf-models-official>=2.20,<2.21",
        "numpy",
        "matplotlib",
        "pillow>=10.1",
        "safetensors",
        "sentencepiece",
        "tqdm",
        "tyro>=1",
    ],
    extras_require={
        "data": ["resvg-py"],
        "beam": ["apache-beam>=2.77"],
        "export": ["tensorflow-serving-api>=2.20,<2.21"],
        "dev": ["pytest", "pytest-xdist", "ruff", "mypy", "types-tqdm"],
    },
    entry_points={"console_scripts": ["parti = parti_tf.cli:main"]},
)
