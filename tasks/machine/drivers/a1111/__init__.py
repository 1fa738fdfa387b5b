"""How one speaks with an Automatic1111 server that draws for a machine: questions, orders, answers.

Source of routes, fields and names: AUTOMATIC1111 stable-diffusion-webui 1.10, modules/api/api.py and models.py.
"""
