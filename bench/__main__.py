"""`python -m bench [NAME ...]`: measures, prints a table, and writes bench/results/NAME.json.

Every benchmark runs in a process of its own, one after the other. Run it on a quiet machine.
"""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {
    "small_model": "bench.decoding",
    "position": "bench.decoding",
    "kernel_order": "bench.decoding",
    "parti_350m": "bench.decoding",
    "parti_350m_memory": "bench.decoding",
    "image_tokenizer_step": "bench.training",
    "imports": "bench.startup",
    "generate": "bench.startup",
}


def main(names: list[str]) -> int:
    """Runs the named benchmarks, all of them where none is named; gives 2 for an unknown name, 1 for a failed one."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"bench: error: no benchmark {', '.join(unknown)}; there is {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")}
    runs = [
        subprocess.run([sys.executable, "-m", "bench", "--here", name], check=False, env=environment)
        for name in names or BENCHMARKS
    ]
    return int(any(run.returncode for run in runs))


def run_here(name: str) -> int:
    """Runs one benchmark in this process."""
    from parti_tf.evaluation.report import format_table, write_json

    figures = getattr(importlib.import_module(BENCHMARKS[name]), name)()
    rows = [(figure.name, figure.value, figure.unit, figure.target or "-") for figure in figures]
    print(format_table((name, "measured", "unit", "target"), rows), end="\n\n", flush=True)
    command = f"make bench ARGS={name}"
    values = [dataclasses.asdict(figure) for figure in figures]
    write_json(RESULTS / f"{name}.json", json.loads(json.dumps({"command": command, "figures": values})))
    return 0


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(run_here(words[1]) if words[:1] == ["--here"] else main(words))
