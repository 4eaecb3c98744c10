"""Data sets, folders of images, augmentation and batches."""
