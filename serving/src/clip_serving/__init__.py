"""What runs inside clip-triton's Triton models, and the tools that start and configure the server."""
