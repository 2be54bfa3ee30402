"""One page of evaluations: figures, tables and HTML, from plain values and frames."""
