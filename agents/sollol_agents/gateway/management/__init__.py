"""The models of the fleet: what there is, and pull, push, create, copy and delete."""
