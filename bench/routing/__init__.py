"""Routing policies against each other in virtual time: the production planner, classic balancers, and an oracle."""
