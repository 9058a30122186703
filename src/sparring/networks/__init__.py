"""Networks and layers that no library ships, and adapters of stock networks."""
