"""What genes are said to do: annotations as files state them, their genes found in an atlas, their terms' ancestors."""
