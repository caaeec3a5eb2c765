"""Models to reports: the numbers of every layer, kept where that is wanted; and two models side by side."""

from .comparison import Comparison, LayerComparison, compare
from .of_layer import analyze_layer
from .of_model import analyze
from .planning import LayerPlan, Plan, Precision, plan, selected
from .reports import QUANTILES, LayerReport, LayerStatus, Report, TorusSummary

__all__ = [
    "QUANTILES",
    "Comparison",
    "LayerComparison",
    "LayerPlan",
    "LayerReport",
    "LayerStatus",
    "Plan",
    "Precision",
    "Report",
    "TorusSummary",
    "analyze",
    "analyze_layer",
    "compare",
    "plan",
    "selected",
]
