"""Every other page: lists of models, questions about the fleet, jobs, operations, the OpenAPI document."""
