"""The product: modules, their files, and the front of those worth choosing from."""
