"""Renderers of `analysis.Report`: text, data files, figures, a page. They compute nothing."""
