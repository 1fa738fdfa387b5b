"""What the tests stand on: starters of real services, and fakes that keep their contract."""
