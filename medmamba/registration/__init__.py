"""Registration of one pair: from two images to a field that brings one onto the other."""
