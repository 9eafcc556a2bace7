"""The gate in front of every converter: what is wrong with a network before a closed tool sees it."""
