"""`imagefleet doctor`: looking at everything that the server or a machine stands on, and saying what to do."""
