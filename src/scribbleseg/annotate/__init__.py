"""Scribbles: auditing what people drew, and drawing them by rule."""
