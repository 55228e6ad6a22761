"""Fused kernels, each beside its plain twin; what calls them does not know which of the two runs."""
