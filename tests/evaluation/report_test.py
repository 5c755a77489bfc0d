import json

import numpy as np
import pytest

from parti_tf.evaluation.report import format_table, write_json


def test_table_is_aligned():
    table = format_table(("split", "images", "PSNR"), [["unseen", 512, 22.126], ["attr", 7, None]])
    assert table.splitlines() == [
        "split   images   PSNR",
        "------  ------  -----",
        "unseen     512  22.13",
        "attr         7      -",
    ]


def test_json_holds_four_digits_and_leaves_nothing_unfinished(tmp_path):
    path = write_json(tmp_path / "results" / "a.json", {"psnr": 22.123456, "choices": {"tone": [1, 0.98765]}})
    assert json.loads(path.read_text()) == {"psnr": 22.1235, "choices": {"tone": [1, 0.9877]}}
    with pytest.raises(TypeError):
        write_json(path, {"psnr": np.zeros(3)})
    assert json.loads(path.read_text())["psnr"] == 22.1235  # what failed did not touch it
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]
