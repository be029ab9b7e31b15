"""Trained networks as a treatment: engines, familiar scans or not, series restored chunk by chunk."""
