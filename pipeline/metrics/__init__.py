"""Scores of images, each under a named convention; arrays in, plain numbers out."""

from pipeline.metrics.aggregation import Summary, summarise
from pipeline.metrics.bias import BODY, TISSUE_BANDS, mean_difference_hu, noise_sd_hu, tissue_regions
from pipeline.metrics.conventions import CONVENTIONS, Convention, convention
from pipeline.metrics.fidelity import psnr, rmse_hu, ssim
from pipeline.metrics.limits import clean_output_gain_db, gain_ceiling_db
from pipeline.metrics.mmd import detail, median_bandwidth, rbf_mmd
from pipeline.metrics.observers import (
    Detectability,
    Scores,
    cho_scores,
    dense_dog_channels,
    estimate_detectability,
    npw_scores,
)
from pipeline.metrics.overlap import dice
from pipeline.metrics.ttf import TTF, disc_ttf, f50_interval

__all__ = [
    "BODY",
    "CONVENTIONS",
    "TISSUE_BANDS",
    "TTF",
    "Convention",
    "Detectability",
    "Scores",
    "Summary",
    "cho_scores",
    "clean_output_gain_db",
    "convention",
    "dense_dog_channels",
    "detail",
    "dice",
    "disc_ttf",
    "estimate_detectability",
    "f50_interval",
    "gain_ceiling_db",
    "mean_difference_hu",
    "median_bandwidth",
    "noise_sd_hu",
    "npw_scores",
    "psnr",
    "rbf_mmd",
    "rmse_hu",
    "ssim",
    "summarise",
    "tissue_regions",
]
