"""The outward APIs. The only room with Flask, flask-smorest and marshmallow; no thinking happens here."""
