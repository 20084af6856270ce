"""Tasks as vectors: function and instruction vectors, their tuning, injection sweeps, decoding and arithmetic."""

from lens_fv.core.artefact import Artefact, Provenance
from lens_fv.vectors.arithmetic import combine, interpolate
from lens_fv.vectors.controls import other_heads, random_like
from lens_fv.vectors.decode import Decoded, decode
from lens_fv.vectors.extract import InstructionVector, extract
from lens_fv.vectors.function_vector import FunctionVector
from lens_fv.vectors.options import FitConfig, TuneConfig
from lens_fv.vectors.sweep import InjectionSweep, sweep_injection
from lens_fv.vectors.tune import tune, tune_many

__all__ = [
    "Artefact",
    "Decoded",
    "FitConfig",
    "FunctionVector",
    "InjectionSweep",
    "InstructionVector",
    "Provenance",
    "TuneConfig",
    "combine",
    "decode",
    "extract",
    "interpolate",
    "other_heads",
    "random_like",
    "sweep_injection",
    "tune",
    "tune_many",
]
