"""The commands people type, up to the point where they start Python."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run_make(*words: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "VENV"}
    return subprocess.run(["make", *words], cwd=ROOT, env=clean | environment, capture_output=True, text=True)


@pytest.fixture
def environment(tmp_path):
    """An environment that is there already, whose `parti` prints each word it is given on a line of its own."""
    parti = tmp_path / "bin" / "parti"
    parti.parent.mkdir()
    parti.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    parti.chmod(0o755)
    return [f"VENV={tmp_path}", f"--old-file={tmp_path}/.installed"]


def test_help_is_the_default_and_lists_every_command():
    result = run_make()
    assert result.returncode == 0
    commands = {line.split()[1] for line in result.stdout.splitlines()}
    assert commands == {"help", "generate", "test", "lint", "bench", "data", "train", "evaluate"}


@pytest.mark.parametrize(
    "prompt",
    [
        "a red heart, in noto style",
        'it\'s a "quoted" heart; echo broken',
        "costs $5 or $(shell echo broken) or $HOME or `echo broken`",
        "--seed is no option here # nor a comment",
        "back\\slash and * star",
    ],
)
def test_generate_hands_the_prompt_over_as_it_is(environment, prompt):
    expected = ["generate", "--num-samples", "2", "--", prompt]
    as_word = run_make(*environment, "generate", f"PROMPT={prompt}", "ARGS=--num-samples 2")
    assert (as_word.returncode, as_word.stdout.splitlines()) == (0, expected)
    as_variable = run_make(*environment, "generate", "ARGS=--num-samples 2", PROMPT=prompt)
    assert (as_variable.returncode, as_variable.stdout.splitlines()) == (0, expected)


def test_generate_without_a_prompt_says_how_before_anything_is_installed(tmp_path):
    result = run_make(f"VENV={tmp_path / 'venv'}", "generate", "PROMPT=")
    assert result.returncode == 2
    assert not (tmp_path / "venv").exists()
    assert 'make generate needs a caption: make generate PROMPT="a red heart, in noto style"' in result.stderr


def test_without_python_3_11_nothing_is_made_and_the_error_says_what_to_do(tmp_path):
    result = run_make(f"VENV={tmp_path / 'venv'}", "PYTHON=false", "lint")
    assert result.returncode == 2
    assert "parti_tf needs Python 3.11 and found none" in result.stderr
    assert not (tmp_path / "venv").exists()
