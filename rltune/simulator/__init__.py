"""The simulator: from names and options to a finished simulation on the core, its results, and decisions taken outside."""
