"""Decoded photos kept between runs: memory-mapped uint8 pixels by content, size and fit, in a bounded folder."""

from .pixel_cache import CachedPhoto, PixelCache

__all__ = ["CachedPhoto", "PixelCache"]
