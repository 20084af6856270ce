"""Benchmarks of the engine's speed, accuracy and memory on this machine.

Every measurement is compared with a plain implementation, timed in alternation with it, and with the arithmetic floor: the
time of the unavoidable operations at the rate of a matrix product timed in the same run.
"""

from lens_fv.studies.bench.engine import EngineBench, bench_compose, bench_engine, bench_sweep
from lens_fv.studies.bench.guiding import GuidedBench, bench_guided
from lens_fv.studies.bench.memory import MemoryBench, bench_memory
from lens_fv.studies.bench.subject import SHAPES, Subject, open_subject
from lens_fv.studies.bench.teaching import TeachBench, bench_teach
from lens_fv.studies.bench.tuning import TuneBench, bench_tune

__all__ = [
    "SHAPES",
    "EngineBench",
    "GuidedBench",
    "MemoryBench",
    "Subject",
    "TeachBench",
    "TuneBench",
    "bench_compose",
    "bench_engine",
    "bench_guided",
    "bench_memory",
    "bench_sweep",
    "bench_teach",
    "bench_tune",
    "open_subject",
]
