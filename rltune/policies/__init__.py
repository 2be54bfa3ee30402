"""Queue orders (`orders`), their compiled time-dependent keys (`dynamic`), what is known of run times (`knowledge`)."""
