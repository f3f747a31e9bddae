"""What the dashboard costs, with a large fleet that is made up."""
