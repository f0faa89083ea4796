"""The code of clip-triton's Triton models, and the tools that configure and start the server."""
