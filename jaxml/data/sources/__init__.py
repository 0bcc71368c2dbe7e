"""Where data come from that the user did not bring: downloads, and what packages ship."""
