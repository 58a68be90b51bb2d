"""Generated from protos/treedraft/v1 by `make proto`; never edited."""
