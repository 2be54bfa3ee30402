"""Queue orders (`orders`), their compiled time-dependent keys (`dynamic`) and what is known of run times (`knowledge`)."""
