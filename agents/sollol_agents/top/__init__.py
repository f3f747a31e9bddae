"""`sollol top`: fleet, queue and decisions in a terminal, with the operations of an operator; needs the extra `top`."""
