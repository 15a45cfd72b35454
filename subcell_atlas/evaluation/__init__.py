"""How good an embedding and a map are, measured against what is known."""
