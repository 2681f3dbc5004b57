"""The server: one supervisor, and executors that accept requests and host objects."""
