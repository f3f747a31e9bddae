"""What renews the documents and checks the plan of the house; part of the checkout, not of the package."""
