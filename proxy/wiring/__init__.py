"""The parts of one worker, each made of its settings. For :mod:`proxy.app` alone.

The thing to get wrong: making is not starting. All of it is made in every worker, also in modes
that use only some of it; what connects, opens or spawns does so in ``start``, or when it is first
used.
"""
