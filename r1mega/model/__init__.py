"""Model families, the layers they are built from, and the precision they run in."""
