"""What an answer cost, read from the answer itself while it passes by.

The room knows bytes and nothing else: no request, no project, no event. It guesses nothing either;
a count that the upstream did not tell is None, never zero.
"""
