"""The race: what a proxy adds, measured side by side on one machine (`make bench`).

Not the tool for users (`manage.py bench`): this one starts everything itself and compares.
"""
