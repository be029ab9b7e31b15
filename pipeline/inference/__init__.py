"""Trained networks applied to folders of DICOM series."""
