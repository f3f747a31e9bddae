"""The actors of SOLLOL Bus, one folder each, and what starts them: the command line and the all-in-one stack."""
