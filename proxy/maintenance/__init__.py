"""Maintenance: periodic tasks that one worker of all nodes runs, under a lease."""
