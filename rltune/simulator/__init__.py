"""The simulator: state as arrays, compiled events and queue disciplines, and the readable loop over the same kernels."""
