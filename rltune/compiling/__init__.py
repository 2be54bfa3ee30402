"""How compiled kernels are kept between runs: their keys, their files, and the word about it on the screen."""
