"""Trains the project's demo model: a real Stable Diffusion pipeline that draws coloured shapes."""
