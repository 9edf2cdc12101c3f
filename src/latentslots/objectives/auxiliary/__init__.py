"""Losses that are added to denoising."""
