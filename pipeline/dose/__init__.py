"""Dose physics: scans at any dose, and the noise that a lower dose would have added to a scan."""
