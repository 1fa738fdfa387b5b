"""The synchronous Automatic1111 dialect: what an unmodified client of that program expects, answered by the fleet."""
