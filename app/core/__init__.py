"""The domain: jobs, models, machines, images. It knows SQLAlchemy and the standard library, no web and no broker."""
