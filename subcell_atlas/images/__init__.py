"""Pictures: files, cells, crops, thumbnails, and the simulated proteome."""
