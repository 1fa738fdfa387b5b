"""A GPU machine: proves its models, joins their queues, draws. It knows no SQL."""
