"""The machines dialect: check-in, claim, pictures, finish. For machines of the fleet only."""
