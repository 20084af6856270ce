"""How fast, how exact and how large is the engine, on this machine?

Every measurement stands beside the plain way of doing the same, timed in turn with it, and beside the arithmetic floor: the
operations that cannot be avoided, at the rate of a matrix product timed in the same run.
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
