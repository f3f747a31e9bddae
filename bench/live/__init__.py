"""The whole system on emulated machines against the simulation of the same machines."""
