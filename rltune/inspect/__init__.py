"""``python -m rltune.inspect RUN [OTHER]``: a local page that steps through what a run directory holds.

`recorded` reads a run directory into schedules, `decisions` what was decided in them, `lanes` gives runs their rows in a node,
`windows`, `moments` and `waits` answer what the page asks, `app` serves it.
"""
