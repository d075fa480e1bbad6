"""Floors, evaluation, and evaluation sets with names: how well a model learns in context, beside
the best that can be done on the same samples.

`client/EVALUATION.md` defines every figure. Needs numba (`pip install '.[core]'`); plots need
matplotlib (`pip install '.[eval]'`). A trainer's framework is not needed.
"""

from metalm.eval.evaluation_set import EvaluationSet
from metalm.eval.evaluator import Evaluator
from metalm.eval.ladder import Floors, floors
from metalm.eval.plots import plot_floors, plot_reports
from metalm.eval.presets import PRESETS, Preset, preset
from metalm.eval.report import Report, read_report, report_schema

__all__ = [
    "PRESETS",
    "EvaluationSet",
    "Evaluator",
    "Floors",
    "Preset",
    "Report",
    "floors",
    "plot_floors",
    "plot_reports",
    "preset",
    "read_report",
    "report_schema",
]
