"""The report: results in, one self-contained HTML page out; no network, no scripts, nothing invented."""

from pipeline.report.page import Finding, Page, Picture, Section, Table, render

__all__ = ["Finding", "Page", "Picture", "Section", "Table", "render"]
