"""Treatments of folders of DICOM series: nothing lost, nothing half-written, restartable."""
