"""Small adapters for other people's trainers; each module needs its own library."""
