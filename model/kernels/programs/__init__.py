"""The kernels themselves, in Triton; imported only where Triton is there."""
