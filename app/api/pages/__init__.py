"""The web page, and the files that the server hands out itself."""
