"""The service over HTTP: who may ask what, bodies as strict models, answers and errors in one form, streams, metrics."""
