"""A bucket as a store: clients, requests that are tried again, and uploads side by side."""
