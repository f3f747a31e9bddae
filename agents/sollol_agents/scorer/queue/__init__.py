"""Requests that wait, the plan over all of them, and what a grant or a refusal says."""
