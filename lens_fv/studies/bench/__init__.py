"""Benchmarks of the engine's speed, accuracy and memory on this machine.

Every measurement is compared with a plain implementation, timed in alternation with it, and with the arithmetic floor: the
time of the unavoidable operations at the rate of a matrix product timed in the same run.
"""

from lens_fv.studies.bench.engine import bench_compose, bench_engine, bench_sweep
from lens_fv.studies.bench.memory import bench_memory
from lens_fv.studies.bench.subject import SHAPES, BenchResult, Subject, open_subject
from lens_fv.studies.bench.training import bench_guided, bench_teach
from lens_fv.studies.bench.tuning import bench_tune

__all__ = [
    "SHAPES",
    "BenchResult",
    "Subject",
    "bench_compose",
    "bench_engine",
    "bench_guided",
    "bench_memory",
    "bench_sweep",
    "bench_teach",
    "bench_tune",
    "open_subject",
]
