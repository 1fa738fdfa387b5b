"""Prompts in Automatic1111's syntax: read, cut into chunks, and encoded for the pipelines that take weights.

`reading` and `timing` and `chunks` are pure; `conditioning` needs torch, and only with a pipeline in its hands.
Source of the syntax: AUTOMATIC1111's wiki, "Features", sections "Attention/emphasis", "Prompt editing", "Alternating
Words", "BREAK keyword" and "Infinite prompt length", and what stable-diffusion-webui 1.10 does where that is silent.
"""
