"""What tests stand on: fleets of real processes, and a whole system in one."""
