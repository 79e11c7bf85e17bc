"""Tasks that one worker of all nodes runs now and then, under a lease."""
