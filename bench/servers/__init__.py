"""Servers of the race, each started as a process of its own."""
