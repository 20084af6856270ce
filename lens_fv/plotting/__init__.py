"""Figures, each made by one function that returns a plotly `Figure`, and reports in a single HTML file."""

from lens_fv.plotting.conditions import plot_conditions
from lens_fv.plotting.decoding import plot_decoded, plot_decoding
from lens_fv.plotting.forgetting import plot_forgetting, plot_head_change, plot_recovery
from lens_fv.plotting.heads import plot_attributions, plot_classes, plot_heads, plot_heads_by_class, plot_top_heads
from lens_fv.plotting.intervals import plot_interval_dots, plot_interval_lines
from lens_fv.plotting.relations import plot_relations, plot_similarities, plot_transfer
from lens_fv.plotting.report import Section, save_figures, write_report
from lens_fv.plotting.sweeps import plot_injection, plot_layers
from lens_fv.plotting.theme import ThemeName, theme
from lens_fv.plotting.trajectories import plot_abilities, plot_vector_plane, plot_vector_similarity

__all__ = [
    "Section",
    "ThemeName",
    "plot_abilities",
    "plot_attributions",
    "plot_classes",
    "plot_conditions",
    "plot_decoded",
    "plot_decoding",
    "plot_forgetting",
    "plot_head_change",
    "plot_heads",
    "plot_heads_by_class",
    "plot_injection",
    "plot_interval_dots",
    "plot_interval_lines",
    "plot_layers",
    "plot_recovery",
    "plot_relations",
    "plot_similarities",
    "plot_top_heads",
    "plot_transfer",
    "plot_vector_plane",
    "plot_vector_similarity",
    "save_figures",
    "theme",
    "write_report",
]
