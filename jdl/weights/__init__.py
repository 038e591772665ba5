"""Pretrained weights in: files, hubs and runs, and the layouts of other libraries."""
