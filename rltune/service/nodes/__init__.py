"""What carries the service's orders out on one machine: MIG instances, processes, records; and the same behind Ray actors."""
