"""Simulated lower doses as a treatment: the scan behind a series, and a derived partner per dose."""
