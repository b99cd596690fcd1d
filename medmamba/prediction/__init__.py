"""From weights to segmentations of new images, and the folder that they lie in."""
