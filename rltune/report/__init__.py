"""Tables and figures from the files of a run directory; and what the entry points say on screen."""
