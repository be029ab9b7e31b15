"""The report: results in, one self-contained HTML page out; no network, no scripts, nothing invented."""

from pipeline.report.page import Page, Picture, Section, Table, render

__all__ = ["Page", "Picture", "Section", "Table", "render"]
