"""The parts of one worker, each made of its settings. For `proxy.app` alone.

Note: to make a part is not to start it. Every worker makes all parts, also in a mode that uses only
some of them. What connects, opens or spawns does so in `start`, or at its first use.
"""
