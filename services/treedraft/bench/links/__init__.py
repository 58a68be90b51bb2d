"""What a network between target and drafter costs: delays put between their processes."""
