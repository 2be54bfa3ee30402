"""Asks the live service over HTTP. It loads nothing heavy: a command answers at once."""
