"""The state of the fleet as people look at it, made from messages; shared by the dashboard and `sollol top`."""
