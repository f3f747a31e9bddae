"""The dashboard: a live web page about the fleet, fed by the bus, with the operations of an operator."""
