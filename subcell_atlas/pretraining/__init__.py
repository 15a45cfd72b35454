"""Train an encoder with SubCell's objective: patches reconstructed, views of a cell alike, cells of a protein alike."""
