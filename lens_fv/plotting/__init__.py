"""Figures, each made by one function that returns a plotly `Figure`, and reports in a single HTML file."""

from lens_fv.plotting.attributions import attribution_figure
from lens_fv.plotting.classes import class_heatmap, heads_by_class
from lens_fv.plotting.conditions import condition_bars
from lens_fv.plotting.decoded import decoded_words
from lens_fv.plotting.dots import interval_dots, interval_lines
from lens_fv.plotting.forgetting import forgetting_matrix, head_change, recovery_bars
from lens_fv.plotting.heads import head_heatmap, top_heads
from lens_fv.plotting.reading import decoding_scatter
from lens_fv.plotting.relations import relation_scatter, transfer_heatmap
from lens_fv.plotting.report import Section, save_figures, write_report
from lens_fv.plotting.similarities import similarity_heatmap
from lens_fv.plotting.sweeps import injection_heatmap, layer_curve
from lens_fv.plotting.theme import ThemeName, theme
from lens_fv.plotting.trajectories import ability_curves, similarity_curves, vector_plane

__all__ = [
    "Section",
    "ThemeName",
    "ability_curves",
    "attribution_figure",
    "class_heatmap",
    "condition_bars",
    "decoded_words",
    "decoding_scatter",
    "forgetting_matrix",
    "head_change",
    "head_heatmap",
    "heads_by_class",
    "injection_heatmap",
    "interval_dots",
    "interval_lines",
    "layer_curve",
    "recovery_bars",
    "relation_scatter",
    "save_figures",
    "similarity_curves",
    "similarity_heatmap",
    "theme",
    "top_heads",
    "transfer_heatmap",
    "vector_plane",
    "write_report",
]
