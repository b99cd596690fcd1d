"""What differs between segmentation and the tasks to come: batches, loss, score."""
