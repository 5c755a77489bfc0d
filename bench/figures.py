"""What a benchmark gives, how time is taken, and the machine's own rates to hold it against."""

import dataclasses
import os
import resource
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
      name: what was measured.
      value: the number.
      unit: of the value.
      target: what the project wants of it, in words; empty where it wants nothing.
    """

    name: str
    value: float
    unit: str
    target: str = ""


def use_threads(count: int) -> None:
    """Confines this process to `count` processors and TensorFlow to as many threads. Before TensorFlow's first op."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:count]))
    tf.config.threading.set_intra_op_parallelism_threads(count)
    tf.config.threading.set_inter_op_parallelism_threads(count)


def seconds(function: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Gives the median time of a call over `repeats`, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        begin = clock()
        function()
        times.append(clock() - begin)
    return median(times)


def cpu_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Gives the median processor time of a call, over all threads of the process."""
    return seconds(function, repeats, time.process_time)


def matvec_bandwidth(megabytes: int = 512) -> Callable[[], float]:
    """Gives a function that measures at which rate a float32 matrix-vector product reads memory, in GB/s.

    The matrix is far larger than any cache. It is multiplied in as many parts as there are threads, at once.
    """
    threads = max(1, tf.config.threading.get_intra_op_parallelism_threads())
    columns = 4096
    rows = megabytes * 2**20 // 4 // columns // threads
    parts = [tf.Variable(tf.random.stateless_normal([rows, columns], [0, part])) for part in range(threads)]
    vector = tf.random.stateless_normal([columns], [0, 0])

    @tf.function
    def product():
        return [tf.linalg.matvec(part, vector) for part in parts]

    product()
    return lambda: megabytes * 2**20 / 1e9 / seconds(lambda: product()[0].numpy(), 3)


def matmul_rate(size: int = 2048) -> Callable[[], float]:
    """Gives a function that measures the rate of a square float32 matrix product, in GFLOP/s."""
    matrix = tf.random.stateless_normal([size, size], [0, 0])
    product = tf.function(lambda: tf.matmul(matrix, matrix))
    return lambda: 2 * size**3 / 1e9 / seconds(lambda: product().numpy(), 5)


def machine_rates() -> list[Figure]:
    """Gives what the machine does at the moment, beside which absolute times are to be read."""
    return [
        Figure("machine: float32 matrix product", matmul_rate()(), "GFLOP/s"),
        Figure("machine: float32 matrix-vector product", matvec_bandwidth(256)(), "GB/s"),
    ]


def rates_against(ceiling: Callable[[], float], work: float, function: Callable[[], object]) -> tuple[float, float]:
    """Gives the median rate at which `function` does its work, and its share of a ceiling measured around it."""
    function()
    rates, shares = [], []
    for _ in range(5):
        before = ceiling()
        begin = time.perf_counter()
        function()
        rates.append(work / (time.perf_counter() - begin))
        shares.append(rates[-1] / ((before + ceiling()) / 2))
    return median(rates), median(shares)


def peak_memory() -> float:
    """Gives the most memory this process has held so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def random_text_ids(batch_size: int, length: int, vocab_size: int) -> tf.Tensor:
    """Gives int32 `[batch_size, length]` with no padding in it."""
    return tf.constant(np.random.default_rng(0).integers(3, vocab_size, (batch_size, length)), tf.int32)
