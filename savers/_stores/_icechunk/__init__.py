"""An Icechunk repository as a store: sessions, keys, and what is committed together."""
