"""The method, as a library: edge maps, structural text, the two-view encoder, losses, checkpoints."""
