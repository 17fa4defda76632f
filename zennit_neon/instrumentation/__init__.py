"""A user's model under a composite, for the time of one call: twin, rules, examination."""
