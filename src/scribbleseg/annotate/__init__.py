"""Scribbles: auditing what people drew."""
