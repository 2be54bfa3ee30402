"""The policies that come with the package: weights as safetensors, a card in YAML beside them (`catalogue`)."""
