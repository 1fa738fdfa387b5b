"""The names of ways to make a picture larger that need no model, in Automatic1111's spelling. Pure."""

LATENT = (
    "Latent",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
    "Latent (nearest)",
    "Latent (nearest-exact)",
)
"""They enlarge what the picture is decoded from, so they need a second pass over it: for the high-res fix alone."""

PIXELS = ("Lanczos", "Nearest")

BUILT_IN = (*LATENT, *PIXELS)
