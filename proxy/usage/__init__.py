"""The usage of a response, read from its bytes while they pass.

This room knows bytes only: no request, no project, no usage event. It guesses nothing: a count that
the upstream did not report is None, never zero.
"""
