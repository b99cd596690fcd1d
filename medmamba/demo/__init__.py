"""Invented scans, and everything once on them."""
