"""Sparsity: patterns, and what follows from them."""
