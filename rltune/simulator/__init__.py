"""The simulator: state as arrays, compiled events and queue disciplines, the readable loop over the same kernels."""
