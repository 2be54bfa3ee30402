"""The live service: jobs and MIG leases come in, the core decides, nodes carry it out."""
